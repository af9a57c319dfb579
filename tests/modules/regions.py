"""Branches and loops that engines take whole, and branches that the example does not run."""

import torch
from torch import Tensor, nn

from .case import case, floats

ROWS = [(floats(2, 8),), (-floats(5, 8).abs(),), (floats(9, 8).abs(),), (-floats(1, 8).abs(),)]
STEPS = [(floats(3, 8), floats(1, 8)), (floats(7, 8), floats(1, 8, seed=4))]
X = floats(2, 8)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)


@case(ROWS, (1, 1))
class IfOfAnyRows(Two):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        if bool(x.sum() > 0):
            y = torch.sigmoid(self.second(y)) + 1
        else:
            y = torch.relu(self.first(y)) - 1
        return torch.softmax(self.second(y), -1)


@case(ROWS, (3, 3))
class SidesOfOtherShapes(Two):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        if bool(x.sum() > 0):
            y = torch.cat([torch.sigmoid(self.second(y)) + 1, y])
        else:
            y = torch.relu(self.first(y)) - 1
        return torch.softmax(self.second(y), -1)


@case(ROWS, (1, 1))
class IfWithOneSide(Two):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        if bool(x.sum() > 0):
            y = torch.sigmoid(self.second(y) + x) + 1
        if bool(x.sum() < 0):
            return torch.softmax(self.second(y), -1)
        return torch.softmax(self.first(y), -1)


@case(ROWS, (1, 1))
class IfInIf(Two):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(self.first(x))
        z = y
        if bool(x.sum() > 0):
            y = torch.sigmoid(self.second(y) + x) + 1
            if bool(x.max() > 1):
                y = y * 2
                z = torch.relu(self.second(y) + z)
            else:
                z = torch.sigmoid(z - y)
        else:
            z = torch.tanh(self.second(z))
        return torch.softmax(self.second(y), -1), z


@case(STEPS, (1, 1))
class Scan(Two):
    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        for i in range(x.size(0)):
            state = torch.tanh(self.first(state) + self.second(x[i]))
        return torch.softmax(self.second(state), -1)


@case(STEPS, (1, 1))
class ScanWithIf(Two):
    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        for i in range(x.size(0)):
            state = torch.tanh(self.first(state) + self.second(x[i]))
            if bool(state.sum() > 0):
                state = torch.relu(self.second(state)) - 0.5
        return torch.softmax(self.second(state), -1)


@case([(floats(3, 8), floats(1, 8)), (floats(0, 8), floats(1, 8)), (floats(6, 8), floats(1, 8))], (1, 2))
class ExchangesInLoop(Two):
    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.first(state), self.second(state)
        for i in range(x.size(0)):
            first, second = second, torch.tanh(self.first(first) + second + x[i])
        return first, second


@case([(floats(3, 8), torch.tensor([[1, 2, 3]])), (floats(6, 8), torch.tensor([[3, 4, 5]]))], (1, 2))
class CountsInSums(Two):
    def forward(self, x: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        state = x[0]
        for i in range(x.size(0)):
            state = torch.sin(self.first(state) * i + i) / 2
            numbers = (numbers * 2 + i) // 3 + (numbers < i)
        return state, numbers


@case([(floats(3, 8),), (floats(6, 8),)], (1, 3))
class BestRow(Two):
    def forward(self, x: Tensor) -> Tensor:
        best, place = torch.full((1,), -1e9), torch.zeros(1, dtype=torch.int64)
        for i in range(x.size(0)):
            found = self.first(x[i]).sum().view(1)
            if bool((found > best)[0]):
                best = found
                place = torch.full((1,), i)
        return torch.cat([best, place.float()])


@case(ROWS, (1, 3))
class MasksInIf(Two):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mask = self.first(x) > 0
        mask = mask & (self.second(x) > 0) if bool(mask.any()) else ~mask
        return mask, torch.where(mask, x, self.first(x))


@case(STEPS, (0, 2))
class PairInLoop(Two):
    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        pair = (state, state * 2)
        for i in range(x.size(0)):
            pair = (torch.tanh(self.first(pair[0]) + x[i]), self.second(pair[1]) + pair[0])
        return pair


@case([(X,), (X * 3,), (X * 0.01,)], (1, 1))
class WhileOnData(Two):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.second(x)) * 4
        while bool(y.abs().max() > 0.3):
            y = torch.tanh(self.first(y)) * 0.5
        return torch.softmax(self.second(y), -1)


@case(ROWS, (1, 4))
class ReturnsAnInputOrNot(Two):
    def forward(self, x: Tensor) -> Tensor:
        y = x
        if bool(x.sum() > 0):
            y = torch.relu(self.first(x))
        return y


@case(ROWS, (1, 4))
class WrittenAfterIf(Two):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        z = self.second(y).tanh() if bool(y.sum() > 1) else y
        z.add_(1)
        return self.first(z) + y


@case([(X,), (X * 50,)], (1, 3))
class UnseenShape(Two):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        if bool(x.abs().max() > 20):
            y = torch.cat([y, torch.relu(self.first(y))])
        return torch.softmax(self.second(y), -1)


@case([(X,), (X * 50,)], (1, 3))
class UnseenDtype(Two):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        if bool(x.abs().max() > 20):
            y = torch.relu(self.first(y)).double()
        return torch.softmax(y * 3, -1)


@case([(X,), (X * 50,), (X * 500,)], (1, 5))
class UnseenLoop(Two):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        if bool(x.abs().max() > 20):
            y = torch.relu(self.first(y) + x)
            for i in range(int(y.sum()) % 4):
                y = torch.tanh(self.first(y)) * i
                if bool(x.abs().max() > 200):
                    y = y[:1]
            y = torch.softmax(self.first(y), -1)
        return y * 3


@case([(X * 0.01,), (X * 5,)], (0, 3))
class LoopChangesRank(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        count = 0
        while count < int(x.abs().sum()) + 1 and count < 3:
            x = torch.tanh(x.unsqueeze(0) * 3) + 1 - torch.softmax(x, -1)
            count += 1
        return torch.relu(x * 2 + 1)


@case([(X,), (-X,)], (1, 3))
class NumberChoosesDtype(Two):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x)) * 3
        dtype = torch.float32
        if bool(x.sum() > 0):
            dtype = torch.int64
        z = y.to(dtype)
        return torch.cumsum(z * 2, 0) + torch.cumsum(z, 1) + z.sum()


@case([(X,), (X * 2,)], (1, 5))
class MaybeNone(Two):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        found: Tensor | None = None
        if bool(x.sum() > 3):
            found = torch.tanh(self.first(x))
        result = torch.relu(self.first(x)) if found is None else found * 2
        return result, found


@case([(X,), (X * 2,)], (1, 5))
class NoneAtFirst(Two):
    def forward(self, x: Tensor) -> Tensor:
        before: Tensor | None = None
        for _ in range(int(x.size(0)) + 2):
            y = torch.tanh(self.first(x))
            if before is not None:
                y = y + before
            before = y
            x = y * 1.5
        assert before is not None
        return before


class Sometimes(nn.Module):
    """An attribute that is None until the first call."""

    scales: list[float] | None

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scales = nn.Linear(8, 8), None

    def forward(self, x: Tensor) -> Tensor:
        if self.scales is None:
            self.scales = [2.0, 3.0]
        scales = self.scales
        assert scales is not None
        return torch.tanh(self.layer(x)) * scales[0] + scales[1]


case([(X,), (X * 2,)], (1, 3))(Sometimes)
