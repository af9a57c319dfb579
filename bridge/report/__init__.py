"""The shared pieces of every report: HTML pages that stand alone, tables for the terminal."""

from bridge.report.html import Html, chart, page, table
from bridge.report.terminal import amount, seconds, to_text

__all__ = ["Html", "amount", "chart", "page", "seconds", "table", "to_text"]
