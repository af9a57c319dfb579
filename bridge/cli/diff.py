"""bridge diff: two compiled modules or engines side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bridge.cli import options

_SIDE = "Compiled module (.ts), TensorRT engine or plan (.engine, .plan), or ONNX model (.onnx)."


def diff_files(
    a: Annotated[Path, typer.Argument(help=f"Before: {_SIDE}", exists=True)],
    b: Annotated[Path, typer.Argument(help=f"After: {_SIDE}", exists=True)],
    inputs: options.Inputs = None,
    load: options.Load = None,
    timed: Annotated[
        bool, typer.Option("--time", help="Time both on random inputs of the shapes that a knows.")
    ] = False,
    runs: Annotated[int, typer.Option(help="Calls to time.", min=1)] = 10,
    seed: options.Seed = 0,
    limits: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on",
            metavar="LIMIT",
            help="Exit with 1 if b is slower[=1.1], larger[=1.1] or needs more memory[=1.1], or differs in layers, "
            "precision, fallback, engines, settings, or any of these; repeatable.",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Where the report goes as one HTML page.", callback=options.writable)
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Where the report goes as JSON.", callback=options.writable)] = None,
    backend: Annotated[str, typer.Option(help="What a raw engine is for: tensorrt or tensorrt_rtx.")] = "tensorrt",
) -> None:
    """Shows what differs between two: fusion, precision, memory, time, settings, rewrite rules.

    bridge diff before.ts after.ts --time --html diff.html
    bridge diff before.ts after.ts -i x:8x3x224x224 --fail-on slower=1.1 --fail-on fallback
    """
    import bridge
    from bridge.cli.app import FAILED

    given = _inputs(a, inputs, load, seed) if inputs or load or timed else None
    report = bridge.diff(str(a), str(b), given, runs=runs, backend=backend)
    exceeded = report.exceeded(limits or ())
    typer.echo(str(report))
    for path in filter(None, (html, json)):
        report.save(path)
    for told in exceeded:
        typer.echo(f"limit: {told}", err=True)
    if exceeded:
        raise typer.Exit(FAILED)


def _inputs(a: Path, described: list[str] | None, load: Path | None, seed: int) -> Any:
    from bridge.cli.files import argument_names, load_module
    from bridge.cli.run import arguments_of

    module = load_module(a)
    args, kwargs = arguments_of(module, described or (), load, seed)
    return {**dict(zip(argument_names(module), args, strict=False)), **kwargs}
