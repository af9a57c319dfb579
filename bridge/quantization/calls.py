"""Calls of a module, as calibration is given them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

import torch

from bridge import torch_private as tp


def arguments_of(call: Any, most: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments, those by position and those by name.

    Args:
        call: a tensor, a tuple or list of arguments, or a dict of them by name.
        most: how many arguments are taken by position; further ones (labels) are left out.
    """
    if isinstance(call, Mapping):
        return (), dict(call)
    return (tuple(call)[:most], {}) if isinstance(call, (tuple, list)) else ((call,), {})


def most_arguments(module: Any) -> int:
    """How many arguments a module's ``forward`` takes by position."""
    if isinstance(module, torch.jit.ScriptModule):
        return len(tp.argument_names(module))
    if isinstance(module, torch.export.ExportedProgram):
        return len(module.call_spec.in_spec.child(0).children()) if module.call_spec.in_spec else 0
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return sys.maxsize
    return sum(kind is not inspect.Parameter.KEYWORD_ONLY for kind in kinds)
