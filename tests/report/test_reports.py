"""The shared pieces of reports: they show what was given, load nothing from elsewhere, inject nothing."""

from html.parser import HTMLParser

import pytest

from bridge.report import amount, chart, page, seconds, table
from bridge.report.html import Html, section
from bridge.report.terminal import grid, to_text


class Checker(HTMLParser):
    """Every element that is opened is closed, in order."""

    VOID = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {name for name, _ in attrs} & {"src", "href", "onclick"}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag == "rect"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_a_page_stands_alone_and_is_well_formed() -> None:
    rows = [("conv<1>", 3, 0.25), ("fc & more", 12345, None)]
    text = page("A & B", "all <good>", section("Layers", table(["name", "calls", "ms"], rows)), chart([("x<y", 2.0)]))
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    said = "".join(checker.words)
    assert all(word in said for word in ("A & B", "all <good>", "conv<1>", "fc & more", "12,345", "0.25", "x<y"))
    assert "http" not in text and "prefers-color-scheme: dark" in text


def test_text_is_escaped_and_html_is_not() -> None:
    text = page("t", "v", "<script>alert(1)</script>", Html("<b>bold</b>"))
    assert "<script>" not in text and "<b>bold</b>" in text


def test_terminal_tables_show_everything() -> None:
    text = to_text("before", grid("Title", ("name", "size"), [("a[0]", 1234), ("b", 7)]))
    assert all(word in text for word in ("before", "Title", "a[0]", "1,234"))
    assert text.splitlines() == [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (5 << 40, "5.0 TiB")]
)
def test_amounts(size: int, text: str) -> None:
    assert amount(size) == text


@pytest.mark.parametrize(("time", "text"), [(2.5, "2.5 s"), (0.0042, "4.2 ms"), (42e-6, "42 us"), (3e-9, "3 ns")])
def test_durations(time: float, text: str) -> None:
    assert seconds(time) == text
