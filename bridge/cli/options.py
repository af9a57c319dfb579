"""The options that commands share, and what they come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from bridge.spec import CompileSpec

_INPUTS = "Inputs"
_BUILD = "Build"

Module = Annotated[Path, typer.Argument(help="TorchScript module (.ts, .pt) or exported program (.pt2).")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input", "-i", metavar="NAME:SHAPE[:DTYPE]", help="x:1x3x224x224; once per input.", rich_help_panel=_INPUTS
    ),
]
Minima = Annotated[
    list[str] | None,
    typer.Option("--min", metavar="NAME:SHAPE", help="Smallest shape of a dynamic input.", rich_help_panel=_INPUTS),
]
Optima = Annotated[
    list[str] | None,
    typer.Option("--opt", metavar="NAME:SHAPE", help="Shape to optimise for.", rich_help_panel=_INPUTS),
]
Maxima = Annotated[
    list[str] | None,
    typer.Option("--max", metavar="NAME:SHAPE", help="Largest shape.", rich_help_panel=_INPUTS),
]
Dtypes = Annotated[
    list[str] | None,
    typer.Option("--dtype", metavar="[NAME:]DTYPE", help="Dtype of one input or of all.", rich_help_panel=_INPUTS),
]
Load = Annotated[
    Path | None,
    typer.Option(help="Inputs to use: tensors saved by torch.save (.pt), or named arrays (.npz).", exists=True),
]
Seed = Annotated[int, typer.Option(help="Of the random inputs.")]
Device = Annotated[str, typer.Option(help="Where to run: cpu, cuda:0; by default where the engine does.")]
Precision = Annotated[str, typer.Option(help="float32, float16 or bfloat16.", rich_help_panel=_BUILD)]
Backend = Annotated[str, typer.Option(help="auto, tensorrt, tensorrt_rtx or onnxruntime.", rich_help_panel=_BUILD)]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Any other setting of bridge.CompileSpec: workspace_size=2GiB, disable_tf32=true.",
        rich_help_panel=_BUILD,
    ),
]


_OPTIONS = {
    "inputs": "--input NAME:SHAPE", "kwarg_inputs": "--input NAME:SHAPE", "precision": "--precision VALUE",
    "backend": "--backend NAME",
}  # fmt: skip
"""Fields of a CompileSpec that have options of their own."""


def writable(path: Path | None) -> Path | None:
    """Refuses a place where nothing can be written before any work is done; for options that name an output."""
    from bridge.errors import BridgeError
    from bridge.report.writing import refuse_unwritable

    try:
        if path is not None:
            refuse_unwritable(path)
    except BridgeError as error:
        raise typer.BadParameter(f"{error.what}: {error.why}") from error
    return path


def spec_of(described: dict[str, Any], precision: str, backend: str, settings: list[str] | None) -> CompileSpec:
    """The CompileSpec that the options come to."""
    from bridge.errors import SpecError
    from bridge.spec import CompileSpec

    given = {**described, "precision": precision, "backend": backend}
    for text in settings or ():
        name, value = _setting(text)
        if name in _OPTIONS:
            raise SpecError(f"--set {text}: there is an option for it", hint=f"write {_OPTIONS[name]}")
        if name in given:
            raise SpecError(f"--set {text}: {name} is given twice", hint="give it once")
        given[name] = value
    return CompileSpec(**given)


def _setting(text: str) -> tuple[str, Any]:
    from bridge.errors import SpecError

    name, equals, value = text.partition("=")
    if not equals:
        raise SpecError(f"--set {text}: no value", hint="write FIELD=VALUE, such as --set optimization_level=5")
    return name.strip().replace("-", "_"), _value(value.strip())


def _value(text: str) -> Any:
    """true and false, whole numbers, [lists, of, words], else the text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.startswith("[") and text.endswith("]"):
        return [word.strip() for word in text[1:-1].split(",") if word.strip()]
    return int(text) if text.lstrip("-").isdigit() else text


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for every stage, on the error stream; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield report
