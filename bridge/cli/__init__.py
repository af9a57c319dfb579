"""The command ``bridge``."""

from bridge.cli.app import main

__all__ = ["main"]
