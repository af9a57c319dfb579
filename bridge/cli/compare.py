"""bridge compare: whether two of the same give the same, and where they begin to differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli import options

if TYPE_CHECKING:
    from bridge.compare import ComparisonReport
    from bridge.spec import CompileSpec

_SIDE = "Module (.ts, .pt, .pt2), ONNX model (.onnx) or TensorRT engine (.engine, .plan)."


def compare_files(
    reference: Annotated[Path, typer.Argument(help=f"What is right: {_SIDE}", exists=True)],
    compiled: Annotated[Path, typer.Argument(help=f"What is compared with it: {_SIDE}", exists=True)],
    inputs: Annotated[
        Path | None,
        typer.Option("--inputs", help="Saved inputs: Polygraphy's .json, torch.save's .pt, or .npz.", exists=True),
    ] = None,
    script: Annotated[
        str | None,
        typer.Option(
            "--data-loader-script",
            metavar="FILE[:FUNCTION]",
            help="As Polygraphy's: load_data() gives inputs by name, set after set.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="How many sets of inputs to take of them.", min=1)] = None,
    described: options.Inputs = None,
    minima: options.Minima = None,
    optima: options.Optima = None,
    maxima: options.Maxima = None,
    seed: Annotated[int, typer.Option(help="Of the random inputs.")] = 0,
    layers: Annotated[bool, typer.Option("--layers", help="Also by layers, naming the first that diverges.")] = False,
    stages: Annotated[
        list[str] | None,
        typer.Option("--stage", help="By layers, here: exported, rewritten, reference, engine, compiled or half."),
    ] = None,
    bisect: Annotated[
        Path | None,
        typer.Option(help="Look for the rule, cast or part of an engine at fault, and write what shows it there."),
    ] = None,
    evaluator: Annotated[str, typer.Option(help="What runs ONNX models: onnxruntime or reference.")] = "onnxruntime",
    python: Annotated[
        Path | None, typer.Option(help="Another environment's interpreter, which runs COMPILED.", exists=True)
    ] = None,
    rtol: Annotated[list[str] | None, typer.Option(metavar="[OUTPUT:]NUMBER", help="Relative tolerance.")] = None,
    atol: Annotated[list[str] | None, typer.Option(metavar="[OUTPUT:]NUMBER", help="Absolute tolerance.")] = None,
    precision: options.Precision = "float32",
    backend: options.Backend = "auto",
    settings: options.Settings = None,
    html: Annotated[
        Path | None, typer.Option(help="Where the report goes as one HTML page.", callback=options.writable)
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Where the report goes as JSON.", callback=options.writable)] = None,
    save_inputs: Annotated[
        Path | None, typer.Option(help="Where the inputs go, in Polygraphy's JSON.", callback=options.writable)
    ] = None,
) -> None:
    """Runs both on the same inputs and compares their outputs; exit code 1 when they differ.

    bridge compare model.ts model_trt.ts --input x:1x3x224x224 --layers --html report.html
    bridge compare model.ts model_trt.ts --min x:1x3x64x64 --opt x:4x3x64x64 --max x:8x3x64x64
    bridge compare model.ts model_trt.ts --inputs inputs.json --precision float16 --bisect found
    """
    import bridge

    found = described_inputs(reference, described, minima, optima, maxima)
    spec = options.spec_of(found, precision, backend, settings)
    given = _given(inputs, script, spec, seed)
    tolerances: dict[str, Any] = {"rtol": _tolerance("--rtol", rtol), "atol": _tolerance("--atol", atol)}
    chosen: dict[str, Any] = {
        "layers": tuple(stages or ()) or layers,
        "bisect": bisect,
        "save_inputs": save_inputs,
        "limit": limit,
    }
    how: dict[str, Any] = {"evaluator": one_of("--evaluator", evaluator, "onnxruntime", "reference"), "python": python}
    report = bridge.compare(str(reference), str(compiled), given, spec=spec, **tolerances, **chosen, **how)
    _tell(report, html, json)


def _tell(report: ComparisonReport, html: Path | None, json: Path | None) -> None:
    from bridge.cli.app import FAILED

    typer.echo(str(report))
    for path, suffix in ((html, ".html"), (json, ".json")):
        if path:
            report.save(path if path.suffix == suffix else path.with_name(path.name + suffix))
    if not report.passed:
        raise typer.Exit(FAILED)


def _given(path: Path | None, script: str | None, spec: CompileSpec, seed: int) -> Any:
    """The inputs: those of a file or of a script, else one set for each corner of the ranges that are described."""
    from bridge.compare.corners import corner_sets
    from bridge.compare.inputs import from_script
    from bridge.errors import SpecError

    if path is not None:
        return path
    if script is not None:
        return from_script(script)
    if not spec.inputs and not spec.kwarg_inputs:
        raise SpecError("no inputs are given", hint="--inputs FILE, or --input NAME:SHAPE once per input")
    return corner_sets(spec, seed)


def described_inputs(
    reference: Path,
    inputs: list[str] | None,
    minima: list[str] | None,
    optima: list[str] | None,
    maxima: list[str] | None,
) -> dict[str, Any]:
    """A spec's inputs as the options describe them, by the reference's names."""
    from bridge.cli import arguments
    from bridge.compare.runners import Contender

    found = arguments.described(inputs or (), minima or (), optima or (), maxima or ())
    return arguments.spec_inputs(found, Contender(str(reference), "reference").input_names) if found else {}


def one_of(option: str, given: str, *known: str) -> str:
    """The word, when it is one of those.

    Raises:
        SpecError: it is not.
    """
    from bridge.errors import SpecError

    if given not in known:
        raise SpecError(f"{option} {given}: not known", hint=f"one of {', '.join(known)}")
    return given


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
