"""bridge rules: list, show, test and write rewriting rules, and explain what they leave of a model."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.errors import SpecError

if TYPE_CHECKING:
    from types import ModuleType

    from rewrites import Target
    from rewrites.rule import Rule

app = typer.Typer(help="List, show, test and write rewriting rules; explain what they leave.", no_args_is_help=True)

_RULE = '''"""{name}: what the rules of this file are for."""

from __future__ import annotations

from rewrites import example, require, rule, tensor


@rule(
    name="{name}",
    matches="HardSwish",
    needed_by={{"tensorrt": "all versions"}},
    examples=[example(X=(2, 3)), example(X=("batch", 8))],
    refuses=[example(X=tensor(2, 3, dtype="float16"), because="32 bits")],
)
class {class_name}:
    """HardSwish -> Mul HardSigmoid: the definition in the ONNX specification.

    Source: why the target needs it: a thread, a line of its parser.
    """

    def check(X):
        require(X.dtype == "float32", "only 32 bits are handled")

    def rewrite(op, X):
        return op.Mul(X, op.HardSigmoid(X, alpha=1 / 6, beta=0.5))
'''

_TEST = '''"""The examples of the rules in {module}, as tests."""

import {module}
import pytest

from rewrites.testing import cases, check


@pytest.mark.parametrize("case", cases({module}), ids=str)
def test_example(case):
    check(case)
'''


@app.command("list")
def list_rules(target: Annotated[str, typer.Option(help='As "tensorrt==10.6"; "any" for all.')] = "any") -> None:
    """Lists the rules that the target needs: the library's and those of installed packages."""
    from rewrites import default_rules

    wanted = _target(target)
    for rule in default_rules():
        if wanted.needs(rule.needed_by):
            typer.echo(f"{rule.name:44} {_headline(rule)}")


@app.command("show")
def show_rule(name: Annotated[str, typer.Argument(help="A rule's name, a module, or a file.")]) -> None:
    """Shows what a rule does, who needs it, and its examples."""
    for rule in _rules_of(name):
        needed = ", ".join(f"{target} {versions}" for target, versions in rule.needed_by.items())
        typer.echo(f"{rule.name}\n  {rule.doc.replace(chr(10), chr(10) + '  ')}")
        typer.echo(f"  defined in {rule.owner}; needed by {needed or 'no target'}")
        for example in rule.examples:
            typer.echo(f"  takes   {example}")
        for example in rule.refuses:
            typer.echo(f"  refuses {example}: {example.because}")


@app.command("test")
def test_rules(name: Annotated[str, typer.Argument(help="A rule's name, a module, or a file.")]) -> None:
    """Runs the tests that the examples of rules make; ends with 1 when one fails."""
    failed = [rule.name for rule in _rules_of(name) if not _passes(rule)]
    if failed:
        raise typer.Exit(1)


@app.command("new")
def new_rule(
    name: Annotated[str, typer.Argument(help="The new rule's name, as my_rules/what-it-does.")],
    into: Annotated[Path, typer.Option(help="The folder to write into.", file_okay=False)] = Path(),
) -> None:
    """Writes a rule and its test, which pass as they are: change them from there."""
    if not re.fullmatch(r"\w[\w-]*/\w[\w-]*", name):
        raise SpecError(f"a rule's name is like my_rules/what-it-does, not {name!r}")
    module = re.sub(r"\W", "_", name.partition("/")[2])
    words = {"name": name, "module": module, "class_name": "".join(w.title() for w in module.split("_"))}
    files = {into / f"{module}.py": _RULE, into / f"test_{module}.py": _TEST}
    taken = [str(path) for path in files if path.exists()]
    if taken or not module.isidentifier():
        raise SpecError(f"{taken[0]} is there already" if taken else f"{module!r} cannot be a module's name")
    into.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        path.write_text(text.format(**words))
        typer.echo(f"wrote {path}")
    typer.echo(f"try: bridge rules test {into / module}.py")


@app.command("explain")
def explain_model(
    model: Annotated[Path, typer.Argument(help="ONNX model.", exists=True, dir_okay=False)],
    target: Annotated[str, typer.Option(help='As "tensorrt==10.6".')] = "tensorrt",
) -> None:
    """Says, per node that the target refuses, which rules came close and why they refused."""
    from bridge.compare.runners import onnx_model
    from bridge.frontend.provenance import METADATA, Provenance
    from rewrites.explaining import explain

    _target(target)
    loaded = onnx_model(model)
    tables = [Provenance.from_json(p.value) for p in loaded.metadata_props if p.key == METADATA]
    explanations, report = explain(loaded, target=target)
    typer.echo(report.line())
    for explanation in explanations:
        first, *rest = str(explanation).splitlines()
        origin = tables[0].of_name(explanation.node) if tables else None
        typer.echo("\n".join([f"{first}   ({origin})" if origin else first, *rest]))
    if not explanations:
        typer.echo("nothing is refused")


def _target(text: str) -> Target:
    from rewrites import RewriteError, Target

    try:
        return Target.parse(text)
    except RewriteError as error:
        raise SpecError(f"--target: {error.what}", hint=error.hint) from error


def _headline(rule: Rule) -> str:
    return rule.doc.splitlines()[0] if rule.doc else ""


def _rules_of(name: str) -> list[Rule]:
    """The rules that a rule's name, a module's name or a file stands for."""
    from rewrites import default_rules
    from rewrites.registry import rules_in

    known = {rule.name: rule for rule in default_rules()}
    if name in known:
        return [known[name]]
    module = _module(name)
    found = rules_in(module) if module else []
    if not found:
        raise SpecError(f"no rule, module or file with rules is called {name!r}; `bridge rules list` shows the rules")
    return found


def _module(name: str) -> ModuleType | None:
    path = Path(name)
    if path.suffix != ".py":
        return importlib.import_module(name) if re.fullmatch(r"[\w.]+", name) and _exists(name) else None
    spec = importlib.util.spec_from_file_location(path.stem, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _passes(rule: Rule) -> bool:
    """Run a rule's examples, and print one line, or what failed."""
    from rewrites.testing import cases, check

    started, failures = time.perf_counter(), []
    for case in cases([rule]):
        try:
            check(case)
        except Exception as error:
            failures.append(f"  {case}\n    {error}")
    builder = "tensorrt_rtx builds" if importlib.util.find_spec("tensorrt_rtx") else "not built: no tensorrt_rtx"
    counts = f"{_count(len(rule.examples), 'example')} · {_count(len(rule.refuses), 'refusal')} · {builder}"
    state = f"{len(failures)} failed" if failures else f"ok: {counts}"
    typer.echo(f"{rule.name}   {state} · {time.perf_counter() - started:.1f} s")
    for failure in failures:
        typer.echo(failure)
    return not failures


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
