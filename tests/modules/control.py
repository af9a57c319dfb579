"""Branches and loops that depend on data, on sizes and on Python numbers."""

import torch
from torch import Tensor, nn

from .case import case, floats

UP, DOWN = floats(2, 8).abs(), -floats(2, 8).abs()


@case([(UP,), (DOWN,)], (1, 4))
class IfOnData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        if bool(x.sum() > 0):
            y = torch.sigmoid(self.first(y)) + 1
        else:
            y = torch.relu(self.first(y)) - 1
        return torch.softmax(self.second(y), -1)


@case([(UP,), (DOWN,)], (1, 4))
class NestedIf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.layer(x)) * 2
        if bool(x.max() > 0):
            if bool(x.max() > 1):
                return torch.tanh(self.layer(y)) + 3
            y = y * 2
        return y - torch.sigmoid(self.layer(y))


@case([(UP,), (DOWN,), (UP * 100,)], (1, 3))
class EarlyReturn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() < 0):
            return x
        for _ in range(4):
            x = torch.tanh(self.layer(x)) * 3
            if bool(x.abs().max() > 2.5):
                return x + 1
        return x * 2


@case([(UP,), (UP * 3,)], (1, 3))
class While(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        count = 0
        while bool(x.norm() > 1.0):
            x = torch.tanh(self.layer(x)) * 0.5
            count += 1
        return x, count


@case([(floats(3, 8),), (floats(5, 8),)], (1, 2))
class ForOverRows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(1, 6)
        for row in x:
            state = self.cell(row.unsqueeze(0), state)
        return state


@case([(floats(3, 8),), (floats(6, 8),)], (1, 3))
class AppendInLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: list[Tensor] = []
        for i in range(x.size(0)):
            out.append(torch.tanh(self.layer(x[i])) * i)
        return torch.sigmoid(self.layer(torch.stack(out)))


@case([(floats(2, 3),), (floats(2, 3, seed=9),)], (0, 1))
class GrowingState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        grown = x
        while bool(grown.size(0) < 9):
            grown = torch.cat([grown, torch.tanh(self.layer(grown[-1:])) + grown.mean()])
        return torch.softmax(self.layer(grown), 0)


@case([(floats(2, 8),), (floats(7, 8),)], (1, 4))
class BranchOnShape(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if x.size(0) > 4:
            x = torch.tanh(self.layer(x)) * 2
        elif x.size(0) % 2 == 0:
            x = torch.sigmoid(self.layer(x)) * 3
        return torch.relu(self.layer(x)) + 1


@case([(UP, 3, "up"), (DOWN, 3, "up")], (1, 1))
class IntAndString(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor, times: int, mode: str) -> Tensor:
        for _ in range(times):
            x = torch.tanh(self.layer(x)) if mode == "up" else x - 1
        return x


@case([(UP, None), (DOWN, None)], (1, 1))
class OptionalAbsent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y = torch.tanh(self.layer(x)) * 2
        return y if bias is None else y + bias


@case([(UP, DOWN), (DOWN, UP)], (1, 1))
class OptionalGiven(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y = torch.tanh(self.layer(x)) * 2
        if bias is not None:
            y = y + self.layer(bias)
        return y


@case([(UP,), (UP * 2,)], (1, 2))
class AssertsOnData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        assert bool(x.min() >= 0), "negative"
        assert x.size(1) == 8, "width"
        if x.dim() != 2:
            raise ValueError("rank")
        return torch.tanh(self.layer(x)) + x


@case([(floats(4, 8),), (floats(4, 8, seed=3),)], (1, 3))
class BreakAndContinue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(8)
        for i in range(100):
            if i % 2 == 1:
                continue
            if i >= x.size(0):
                break
            total = total + torch.tanh(self.layer(x[i])) * i
        return torch.sigmoid(self.layer(total))


@case([(floats(3, 4, 8),), (floats(2, 5, 8),)], (1, 3))
class NestedLoops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(8)
        for i in range(x.size(0)):
            for j in range(x.size(1)):
                if bool(total.sum() < 5):
                    total = torch.relu(total + self.layer(x[i, j]) * 2)
                else:
                    total = total * 0.5
        return total


@case([(floats(2, 8),), (floats(2, 8, seed=3),)], (1, 1))
class ConstantLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for layer in self.layers:
            x = torch.relu(layer(x))
            kept.append(x)
        return torch.cat(kept, 1)


@case([(UP,), (DOWN,)], (1, 1))
class DecidedBranch(nn.Module):
    deep: bool

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.layer = True, nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if self.deep and not self.training:
            x = torch.tanh(self.layer(x))
        return torch.relu(self.layer(x))


@case([(UP,), (DOWN,)], (1, 3))
class BranchChoosesDtype(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.layer(x)) * 2
        z = y.to(torch.int64) if bool(x.sum() > 0) else y
        return z * 3 + 1


@case([(UP,), (DOWN,)], (1, 3))
class BranchChoosesRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.layer(x)) * 2
        z = y.sum(0) if bool(x.sum() > 0) else y
        return torch.softmax(z, -1) * 3 + 1


@case([(floats(4, 8),), (floats(4, 8, seed=5),)], (0, 1))
class ShrinkingInLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        while x.size(0) > 1:
            x = torch.tanh(self.layer(x[1:])) + x[:-1]
        return torch.relu(self.layer(x)) * 2
