"""bridge compile: a module in, a module with engines out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from bridge.cli import options


def compile_module(
    model: options.Module,
    inputs: options.Inputs = None,
    minima: options.Minima = None,
    optima: options.Optima = None,
    maxima: options.Maxima = None,
    dtypes: options.Dtypes = None,
    precision: options.Precision = "float32",
    backend: options.Backend = "auto",
    settings: options.Settings = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Where the compiled module goes; by default MODEL_trt.ts.", callback=options.writable
        ),
    ] = None,
) -> None:
    """Compiles a module and saves the result, which `torch.jit.load` takes in any process that imports bridge.

    bridge compile model.ts --input x:1x3x224x224 --precision float16 -o model_trt.ts
    bridge compile model.ts --min x:1x3x224x224 --opt x:8x3x224x224 --max x:32x3x224x224
    """
    import torch

    import bridge
    from bridge.cli.files import argument_names, inside, load_module, size_of
    from bridge.logging import quiet_exporter
    from bridge.report import amount, seconds
    from bridge.report.writing import replacing

    module = load_module(model)
    shapes = (inputs, minima, optima, maxima, dtypes)
    spec = options.described_spec(module, shapes, precision, backend, settings)
    options.needs_inputs(module, spec)
    target = options.target_beside(model, output, model.with_name(f"{model.stem}_trt.ts"))
    start = time.perf_counter()
    with options.progress_bar() as spec.progress:
        made = bridge.compile(module, spec)
    took = time.perf_counter() - start
    compiled = inside(made)
    with quiet_exporter(), replacing(target, size_of(compiled)) as partial:
        torch.jit.save(compiled, str(partial))
    engines = bridge.inspect(compiled, layers=False).engines
    backends = ", ".join(sorted({f"{one.header.backend} {one.header.version}" for one in engines}))
    count = f"engines: {len(engines)} ({backends})" if engines else "no engine: all in PyTorch"
    typer.echo(f"{target}: {count}, {amount(target.stat().st_size)}, in {seconds(took)}")
    if compiled is not made:
        names = ", ".join(argument_names(compiled))
        typer.echo(
            f"{target}: takes {names}, and gives tensors in a row: TorchScript cannot hold the structures around"
        )
