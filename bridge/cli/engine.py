"""bridge engine: a method of a module in, the bytes of one whole engine out, for programs that know TensorRT only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bridge.cli import options


def build_engine(
    model: options.Module,
    inputs: options.Inputs = None,
    minima: options.Minima = None,
    optima: options.Optima = None,
    maxima: options.Maxima = None,
    dtypes: options.Dtypes = None,
    precision: options.Precision = "float32",
    backend: options.Backend = "auto",
    settings: options.Settings = None,
    method: Annotated[str, typer.Option(help="The method to build.")] = "forward",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Where the engine goes; by default MODEL.engine.", callback=options.writable
        ),
    ] = None,
) -> None:
    """Builds one whole engine and writes its bytes, as TensorRT's own runtime takes them.

    bridge engine model.ts --input x:1x3x224x224 -o model.engine
    """
    import bridge
    from bridge.cli.files import load_module
    from bridge.report import amount
    from bridge.report.writing import replacing

    module = load_module(model)
    shapes = (inputs, minima, optima, maxima, dtypes)
    spec = options.described_spec(module, shapes, precision, backend, settings, method=method)
    options.needs_inputs(module, spec, method)
    target = options.target_beside(model, output, model.with_suffix(".engine"))
    with options.progress_bar() as spec.progress:
        engine = bridge.convert_method_to_trt_engine(module, method, spec)
    with replacing(target, len(engine)) as partial:
        partial.write_bytes(engine)
    typer.echo(f"{target}: {amount(len(engine))}")
