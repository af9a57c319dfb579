"""The options that commands share, and what they come to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
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


def described_spec(
    module: Any,
    shapes: Sequence[list[str] | None],
    precision: str,
    backend: str,
    settings: list[str] | None,
    *,
    method: str = "forward",
) -> CompileSpec:
    """The CompileSpec of a method that the options come to.

    Args:
        shapes: what --input, --min, --opt, --max and --dtype say.

    Raises:
        SpecError: an option cannot be meant, or inputs are missing.
    """
    from bridge.cli.arguments import described, spec_inputs
    from bridge.cli.files import argument_names

    names = argument_names(module, method)
    found = described(*(texts or () for texts in shapes))
    return spec_of(spec_inputs(found, names), precision, backend, settings)


def needs_inputs(module: Any, spec: CompileSpec, method: str = "forward") -> None:
    """Refuses a spec without inputs for a method that has arguments; an exported program has inputs of its own.

    Raises:
        SpecError: there are none.
    """
    import torch

    from bridge.cli.files import argument_names, has_required
    from bridge.errors import SpecError

    names = argument_names(module, method)
    if isinstance(module, torch.export.ExportedProgram):
        return
    if has_required(module, method) and spec.inputs is None and not spec.kwarg_inputs:
        told = f"no inputs are given; {method}({', '.join(names)}) needs their shapes"
        raise SpecError(told, hint="--input NAME:SHAPE[:DTYPE] once per argument")


def target_beside(model: Path, output: Path | None, default: Path) -> Path:
    """Where a command's result goes; found out before any work is done.

    Raises:
        SpecError: it would take the place of the model.
        BridgeError: it cannot be written.
    """
    from bridge.errors import SpecError
    from bridge.report.writing import refuse_unwritable

    target = output or default
    if target.exists() and model.exists() and target.samefile(model):
        raise SpecError(f"--output {target}: that is the module itself", hint="give another name")
    refuse_unwritable(target)
    return target


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
    field = name.strip().replace("-", "_")
    return field, _words(value) if _holds_several(field) or value.strip().startswith("[") else _value(value.strip())


def _holds_several(field: str) -> bool:
    from bridge.spec import CompileSpec

    return any(one.name == field and isinstance(one.default, tuple) for one in dataclasses.fields(CompileSpec))


def _words(text: str) -> list[str]:
    """``[several, words]``, with or without the brackets."""
    return [word.strip() for word in text.strip().removeprefix("[").removesuffix("]").split(",") if word.strip()]


def _value(text: str) -> Any:
    """true and false, whole numbers, else the text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
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
