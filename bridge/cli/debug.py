"""bridge debug: a module's graph node by node, beside the ONNX graph or the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli import options

if TYPE_CHECKING:
    from bridge.debug import Debugger, DebugStep


def debug_module(
    model: options.Module,
    inputs: options.Inputs = None,
    load: options.Load = None,
    beside: Annotated[
        str, typer.Option(help="What runs beside PyTorch: onnx, engine, none, or a compiled module (.ts).")
    ] = "onnx",
    stops: Annotated[
        list[str] | None,
        typer.Option(
            "--break", "-b", metavar="PLACE", help="Stop at aten::softmax, encoder.layer.0 or model.py:12; repeatable."
        ),
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Open pdb at every stop, with `step` and `debugger` at hand.")
    ] = False,
    on: Annotated[bool, typer.Option("--continue", help="Do not stop at differences; tell them.")] = False,
    tolerance: Annotated[float | None, typer.Option(help="Relative error up to which a result is right.")] = None,
    seed: options.Seed = 0,
    precision: options.Precision = "float32",
    backend: options.Backend = "auto",
    settings: options.Settings = None,
) -> None:
    """Runs a module node by node in PyTorch and compares every result; exit code 1 when one differs.

    bridge debug model.ts --input x:1x3x224x224
    bridge debug model.ts -i x:1x16 --break aten::softmax --break encoder.layer.0 --interactive
    bridge debug model.ts --load inputs.pt --beside model_trt.ts --precision float16
    """
    import bridge
    from bridge.cli.app import FAILED
    from bridge.cli.files import load_module
    from bridge.cli.run import arguments_of

    module = load_module(model)
    args, kwargs = arguments_of(module, inputs or (), load, seed)
    spec = options.spec_of({}, precision, backend, settings)
    debugger = bridge.debug(
        module,
        {**_named(module, args), **kwargs} if kwargs else tuple(args),
        beside=None if beside == "none" else beside,
        breakpoints=stops or (),
        stop_at_difference=not on,
        tolerance=tolerance,
        spec=spec,
    )
    _go_on(debugger, interactive)
    if debugger.first_difference is not None:
        typer.echo(f"the first difference: {str(debugger.first_difference).strip()}")
        raise typer.Exit(FAILED)
    count = len(debugger.history)
    typer.echo(f"{count} step{'s' * (count != 1)}" + ("" if beside == "none" else ", no difference"))


def _named(module: object, args: tuple[object, ...]) -> dict[str, object]:
    from bridge.cli.files import argument_names

    return dict(zip(argument_names(module), args, strict=False))


def _go_on(debugger: Debugger, interactive: bool) -> None:
    """Runs from stop to stop; without a person at the other end it ends at the first difference."""
    while (step := debugger.run(typer.echo)) is not None:
        typer.echo(f"stopped by {step.stopped_by}: {step.describe()}")
        if interactive:
            _look(debugger, step)
        elif step.stopped_by == "difference":
            return


def _look(debugger: Debugger, step: DebugStep) -> None:
    """pdb with the step and the debugger as local names; `c` goes on, `q` ends."""
    import bdb
    import pdb  # noqa: T100 - the debugger is what was asked for

    try:
        pdb.Pdb(nosigint=True).set_trace()
    except bdb.BdbQuit:
        raise typer.Exit(130) from None
