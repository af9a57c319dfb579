"""What a test of one module needs, and the table of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Case:
    """A module, scripted or traced, and calls to make of it.

    Attributes:
        make: the module.
        calls: arguments; sizes that differ between them are dynamic. The first is what it is compiled with.
        engines: fewest and most engines: the most is what dependencies force, and one.
        trace: whether it is traced with the first call, else scripted.
        settings: further settings of ``bridge.compile``.
        spec: inputs, where they do not follow from the calls.
    """

    name: str
    make: Callable[[], nn.Module]
    calls: Sequence[tuple[Any, ...]]
    engines: tuple[int, int]
    trace: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    spec: Any = None
    tolerance: float = 1e-4


CASES: list[Case] = []


def case(
    calls: Sequence[tuple[Any, ...]],
    engines: tuple[int, int],
    *,
    trace: bool = False,
    spec: Any = None,
    tolerance: float = 1e-4,
    **settings: Any,
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Adds a module class to the table."""

    def add(module: type[nn.Module]) -> type[nn.Module]:
        CASES.append(Case(module.__name__, module, calls, engines, trace, settings, spec, tolerance))
        return module

    return add


def floats(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
