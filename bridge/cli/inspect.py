"""bridge inspect: what is inside a compiled module or an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def inspect_file(
    file: Annotated[Path, typer.Argument(help="Compiled module (.ts), plan, or serialized TensorRT engine.")],
    layers: Annotated[
        bool, typer.Option(help="Also list the layers; TensorRT's engines need their GPU for it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Shows a compiled module's engines: inputs, outputs, profiles, layers, and how they were made.

    bridge inspect model_trt.ts --layers
    """
    import bridge

    found = bridge.inspect(file, layers=layers)
    typer.echo(json.dumps(found.to_dict(), indent=2, default=str) if as_json else str(found))
