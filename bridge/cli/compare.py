"""bridge compare: whether two of the same give the same, and where they begin to differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli import options

if TYPE_CHECKING:
    from bridge.compare import ComparisonReport

_SIDE = "Module (.ts, .pt, .pt2), ONNX model (.onnx) or TensorRT engine (.engine, .plan)."


def compare_files(
    reference: Annotated[Path, typer.Argument(help=f"What is right: {_SIDE}", exists=True)],
    compiled: Annotated[Path, typer.Argument(help=f"What is compared with it: {_SIDE}", exists=True)],
    inputs: Annotated[
        Path | None,
        typer.Option("--inputs", help="Saved inputs: Polygraphy's .json, torch.save's .pt, or .npz.", exists=True),
    ] = None,
    described: options.Inputs = None,
    seed: Annotated[int, typer.Option(help="Of the random inputs.")] = 0,
    layers: Annotated[bool, typer.Option("--layers", help="Also by layers, naming the first that diverges.")] = False,
    rtol: Annotated[list[str] | None, typer.Option(metavar="[OUTPUT:]NUMBER", help="Relative tolerance.")] = None,
    atol: Annotated[list[str] | None, typer.Option(metavar="[OUTPUT:]NUMBER", help="Absolute tolerance.")] = None,
    precision: options.Precision = "float32",
    settings: options.Settings = None,
    html: Annotated[Path | None, typer.Option(help="Where the report goes as one HTML page.")] = None,
    json: Annotated[Path | None, typer.Option(help="Where the report goes as JSON.")] = None,
    save_inputs: Annotated[Path | None, typer.Option(help="Where the inputs go, in Polygraphy's JSON.")] = None,
) -> None:
    """Runs both on the same inputs and compares their outputs; exit code 1 when they differ.

    bridge compare model.ts model_trt.ts --input x:1x3x224x224 --layers --html report.html
    """
    import bridge

    spec = options.spec_of({}, precision, "onnxruntime", settings)
    given = _saved(inputs) if inputs else _random(reference, described, seed)
    tolerances = {"rtol": _tolerance("--rtol", rtol), "atol": _tolerance("--atol", atol)}
    paths = str(reference), str(compiled)
    report = bridge.compare(*paths, given, layers=layers, **tolerances, spec=spec, save_inputs=save_inputs)
    _tell(report, html, json)


def _tell(report: ComparisonReport, html: Path | None, json: Path | None) -> None:
    from bridge.cli.app import FAILED

    typer.echo(str(report))
    for path, suffix in ((html, ".html"), (json, ".json")):
        if path:
            report.save(path if path.suffix == suffix else path.with_name(path.name + suffix))
    if not report.passed:
        raise typer.Exit(FAILED)


def _saved(path: Path) -> Any:
    """Inputs from a file: Polygraphy's JSON holds a list of sets by name."""
    from bridge.cli.files import load_values
    from bridge.compare.inputs import from_json

    return from_json(path) if path.suffix == ".json" else load_values(path)


def _random(reference: Path, described: list[str] | None, seed: int) -> Any:
    from bridge.cli import arguments
    from bridge.compare.inputs import argument_names
    from bridge.compare.runners import Contender
    from bridge.errors import SpecError
    from bridge.spec import CompileSpec

    found = arguments.described(described or ())
    if not found:
        raise SpecError("no inputs are given", hint="--inputs FILE, or --input NAME:SHAPE once per input")
    side = Contender(str(reference), "reference")
    names = argument_names(side.module) if side.module is not None else side.input_names
    args, kwargs = CompileSpec(**arguments.spec_inputs(found, names)).example_inputs(seed=seed)
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _tolerance(option: str, texts: list[str] | None) -> Any:
    """One number, or numbers by output name; None when not given."""
    from bridge.errors import SpecError

    found: dict[str, float] = {}
    for text in texts or ():
        name, _, number = text.rpartition(":")
        try:
            found[name] = float(number)
        except ValueError:
            raise SpecError(f"{option} {text}: {number!r} is no number", hint="write 1e-3 or OUTPUT:1e-3") from None
    return found or None
