"""Exported programs in operators on plain tensors: what autocast and other kinds of tensors leave to run time."""

from __future__ import annotations

import torch
from torch import fx

_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


def in_plain_operators(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program itself, or one whose casts and weights are its own.

    PyTorch writes the casts of autocast, and takes weights that are tensors of another kind (torchao's quantized ones)
    apart, where it decomposes a program; of operators it leaves all as they are here.
    """
    held = (*program.state_dict.values(), *program.constants.values())
    kinds = [type(tensor) for tensor in held if isinstance(tensor, torch.Tensor)]
    if all(kind in _PLAIN for kind in kinds) and not _casts_by_itself(program.graph_module):
        return program
    plain: torch.export.ExportedProgram = program.run_decompositions({})
    return plain


def _casts_by_itself(module: fx.GraphModule) -> bool:
    """Whether a part of a program runs under autocast."""
    graphs = [part.graph for part in module.modules() if isinstance(part, fx.GraphModule)]
    nodes = [node for graph in graphs for node in graph.nodes if node.op == "call_function"]
    return any(getattr(node.target, "__name__", "") == "wrap_with_autocast" and node.args[2] for node in nodes)
