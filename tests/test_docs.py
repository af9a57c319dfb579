"""The documentation: its links lead somewhere, its Python runs, the commands it names exist."""

import re
import warnings
from pathlib import Path

import pytest

from bridge.cli.app import make_app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
RUN = [ROOT / "README.md", ROOT / "docs" / "guide.md", ROOT / "docs" / "performance.md", ROOT / "docs" / "tools.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


CODE = [
    pytest.param(code, id=f"{page.name}-{index}") for page in RUN for index, code in enumerate(blocks(page, "python"))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("code", CODE)
def test_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.py").write_text(code)  # TorchScript reads the source of what it scripts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, str(tmp_path / "code.py"), "exec"), {"__name__": "documentation"})


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "docs/guide.md", ROOT / "docs/cpp.md"], ids=lambda p: p.name
)
def test_commands_exist(page: Path) -> None:
    known = {command.name for command in make_app().registered_commands} | {"rules"}
    named = set(re.findall(r"(?:^    |`)bridge (\w+)", page.read_text(), re.MULTILINE))
    assert named and named <= known
