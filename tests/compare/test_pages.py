"""The HTML report, opened in a browser: whole, without errors, at 120 and 2,000 layers."""

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.compare import ComparisonReport
from bridge.compare.figures import Figures
from bridge.compare.histograms import histogram_of
from bridge.compare.layers import LayerFigures, LayerRow
from bridge.compare.outputs import OutputRow
from bridge.frontend.provenance import Origin

np = pytest.importorskip("numpy")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HEIGHT = 2400


def report_of(count: int) -> ComparisonReport:
    """A chain in which every fourth operator also reads the one three before; the error begins half-way."""
    rows = []
    for order in range(count):
        error = 1e-6 if order < count // 2 else 1e-2
        begins = order == count // 2
        stages = {
            "exported": LayerFigures(figures(1e-7), 1e-7, False),
            "rewritten": LayerFigures(figures(error), 1e-6 if begins else error, begins),
        }
        reads = (order - 1, *([order - 3] if order % 4 == 3 else [])) if order else ()
        origin = Origin("aten::linear", f"layers.{order // 10}.<b>{order}</b>", "Linear", "model.py:3 in forward")
        rows.append(LayerRow(order, order, origin, (), (), (2, 3), "float32", stages, tuple(stages), reads))
    output = OutputRow(0, "output", "float32", (2, 3), figures(1e-2), 1e-3, 1e-3, False)
    made = ComparisonReport("a & b", "c <d>", [output], rows, 1e-5, ["a note"])
    x = np.random.default_rng(0).normal(size=1000)
    made.histograms = [histogram_of(count // 2, "rewritten", x, x * 1.01)]
    return made


def figures(error: float) -> Figures:
    return Figures(error, error / 2, error, 1.0, 40.0)


@pytest.mark.parametrize("count", [1, 120, 2000])
def test_a_page_is_whole(count: int, tmp_path: Path) -> None:
    report = report_of(count)
    page = report.save(tmp_path / "report.html").read_text()
    assert len(re.findall(r'<tr id="row-\d+"', page)) == count and len(re.findall(r'<a href="#row-', page)) == count + 1
    assert page.count('class="begins"') == 1 and page.count("begins") > 1
    assert "<b>" not in page and "&lt;b&gt;" in page and "http" not in page and "src=" not in page
    assert page.index("verdict bad") < page.index("<table>") < page.index("<svg")
    assert page.count("<path") == sum(len(row.reads) for row in report.layers)


def test_what_is_not_finite_has_a_colour_and_a_picture(tmp_path: Path) -> None:
    report = report_of(3)
    infinite = LayerFigures(Figures(np.inf, np.inf, np.inf, np.nan, -np.inf), 1e-7, True)
    report.layers[1] = replace(report.layers[1], stages={**report.layers[1].stages, "rewritten": infinite})
    report.histograms = [histogram_of(1, "rewritten", np.array([1.0, np.inf, 2]), np.array([np.inf, np.inf, np.nan]))]
    page = report.save(tmp_path / "report.html").read_text()
    assert 'class="ex begins"' in page and "1 of the other&#x27;s values are not finite" not in page
    assert "2 of the other&#x27;s values are not finite" in page and "NaN" in page
    assert "inf" in str(report)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("count", [120, 2000])
def test_a_browser_shows_it(count: int, tmp_path: Path) -> None:
    page = report_of(count).save(tmp_path / "report.html")
    found = tmp_path / "found.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    sizes = [f"--window-size=1300,{HEIGHT}", f"--user-data-dir={tmp_path}", f"--screenshot={found}"]
    command = [str(BROWSER), *options, *sizes, page.as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env={**os.environ})
    assert "CONSOLE" not in ended.stderr, ended.stderr  # an error of the page's own script
    Image = pytest.importorskip("PIL.Image")
    pixels = np.asarray(Image.open(found).convert("RGB")).astype(int)
    assert pixels.shape == (HEIGHT, 1300, 3)
    red, blue = pixels[..., 0], pixels[..., 2]
    assert ((red > 200) & (blue < 100)).sum() > 500  # operators in the colour of one percent
    assert pixels.std() > 20


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_the_filter_filters(tmp_path: Path) -> None:
    page = report_of(120).save(tmp_path / "report.html")
    script = "<script>begins.checked = true; filterRows();</script></body>"
    page.write_text(page.read_text().replace("</body>", script))
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    shown = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    assert len(re.findall(r'<tr id="row-\d+"[^>]*hidden', shown)) == 119
