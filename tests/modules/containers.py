"""Lists, tuples, dicts, classes, interfaces and modules in containers."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .case import case, floats

X, Y = floats(2, 8), floats(2, 8, seed=7)


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


@torch.jit.script
class Accumulator:
    def __init__(self, start: Tensor) -> None:
        self.total = start
        self.count = 0

    def add(self, x: Tensor) -> None:
        self.total = self.total + x
        self.count += 1


@torch.jit.interface
class Stage(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        pass


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x)) * 2


@case([(X,), (Y,)], (1, 1))
class ReturnsNamedTuple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Pair:
        y = torch.tanh(self.layer(x)) * 2
        return Pair(y, torch.relu(self.layer(y)))


@case([((X, Y),), ((Y, X),)], (1, 1))
class TakesTuple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        left, right = pair
        y = torch.tanh(self.layer(left)) + right
        return y, (torch.relu(y) * 2, torch.sigmoid(self.layer(y)))


@case([([X, Y],), ([Y, X],)], (1, 3))
class TakesList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, parts: list[Tensor]) -> list[Tensor]:
        out: list[Tensor] = []
        for part in parts:
            out.append(torch.tanh(self.layer(part)) * 2)
        return out


@case([({"a": X, "b": Y},), ({"a": Y, "b": X},)], (1, 1))
class TakesDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        y = torch.tanh(self.layer(named["a"])) + named["b"]
        return {"sum": y, "squashed": torch.sigmoid(self.layer(y))}


@case([({"a": [X, Y]}, (X, [Y])), ({"a": [Y, X]}, (Y, [X]))], (1, 2))
class NestedInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, named: dict[str, list[Tensor]], pair: tuple[Tensor, list[Tensor]]) -> dict[str, list[Tensor]]:
        first = torch.tanh(self.layer(named["a"][0])) + named["a"][1]
        second = torch.relu(self.layer(pair[0])) * pair[1][0]
        return {"both": [first, second], "given": [pair[0]]}


@case([(X,), (Y,)], (1, 3))
class DictInLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"one": nn.Linear(8, 8), "two": nn.Linear(8, 8)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            x = torch.tanh(layer(x)) * 2
            out[name] = x
        return out


@case([(X,), (Y,)], (1, 3))
class UsesClass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        sums = Accumulator(torch.zeros(2, 8))
        for _ in range(3):
            x = torch.tanh(self.layer(x)) * 2
            sums.add(x)
        return sums.total, sums.count


@case([(X,), (Y,)], (1, 2))
class UsesInterface(nn.Module):
    stage: Stage

    def __init__(self) -> None:
        super().__init__()
        self.stage = Doubled()
        self.last = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.last(self.stage.forward(x))) + 1


@case([(X,), (Y,)], (1, 1))
class SeveralMethods(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    @torch.jit.export
    def encode(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.layer(self.encode(self.encode(x))))


@case([(X,), (Y,)], (1, 1))
class SharedSubmodule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = Doubled()
        self.second = self.first
        self.head = nn.Linear(8, 8, bias=False)
        self.head.weight = self.first.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)))


@case([(X,), (Y,)], (1, 2))
class TensorListIndexed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.tanh(self.layer(x)).chunk(2, 1)
        parts = torch.split(torch.relu(self.layer(x)), [3, 5], 1)
        return torch.cat([b, a, parts[1], parts[0]], 1) * 2


@case([(X,), (Y,)], (1, 3))
class OptionalInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        kept: Tensor | None = None
        for i in range(x.size(0)):
            step = torch.tanh(self.layer(x[i])) * 2
            if kept is None:
                kept = step
            else:
                kept = torch.maximum(kept, step)
        return torch.relu(self.layer(x)) + 1, kept


@case([(X,), (Y,)], (1, 1), trace=True)
class TracedDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = torch.tanh(self.layer(x))
        return {"y": y, "z": y * 2 + 1}
