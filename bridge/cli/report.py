"""bridge report: one archive for those who are to find out what went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bridge.cli import options


def write_report(
    model: options.Module,
    inputs: options.Inputs = None,
    minima: options.Minima = None,
    optima: options.Optima = None,
    maxima: options.Maxima = None,
    dtypes: options.Dtypes = None,
    load: options.Load = None,
    compiled: Annotated[
        Path | None, typer.Option(help="What the module was compiled to; compared with it.", exists=True)
    ] = None,
    precision: options.Precision = "float32",
    backend: options.Backend = "auto",
    settings: options.Settings = None,
    build: Annotated[bool, typer.Option("--build", help="Compile the module now; tell what fails.")] = False,
    keep_weights: Annotated[bool, typer.Option("--keep-weights", help="Leave weights in the ONNX graphs.")] = False,
    keep_inputs: Annotated[bool, typer.Option("--keep-inputs", help="Put the inputs into the archive too.")] = False,
    seed: options.Seed = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Where the archive goes; by default MODEL_report.zip.", callback=options.writable
        ),
    ] = None,
) -> None:
    """Writes a support bundle: versions, settings, ONNX graphs, reasons, engines, logs, errors; tells what is in it.

    Weights and inputs stay out unless they are asked for; paths become relative, or are cut to their last part.

    bridge report model.ts --input x:1x3x224x224 -o report.zip
    bridge report model.ts --load inputs.pt --compiled model_trt.ts
    """
    import bridge
    from bridge.cli.files import argument_names, load_module

    module = load_module(model)
    shapes = (inputs, minima, optima, maxima, dtypes)
    spec = options.described_spec(module, shapes, precision, backend, settings)
    given: Any = load
    if given is None and (compiled is not None or build) and any(shapes):
        args, kwargs = spec.example_inputs(seed=seed)
        given = {**dict(zip(argument_names(module), args, strict=False)), **kwargs} if kwargs else tuple(args)
    bundle = bridge.report_bundle(
        module,
        options.target_beside(model, output, model.with_name(f"{model.stem}_report.zip")),
        spec,
        compiled=load_module(compiled) if compiled else None,
        build=build,
        inputs=given,
        keep_weights=keep_weights,
        keep_inputs=keep_inputs,
    )
    typer.echo(str(bundle))
