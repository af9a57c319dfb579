"""Memory that is written to, shared, or given back to the caller."""

import torch
from torch import Tensor, nn

from .case import case, floats

X, Y = floats(2, 8), floats(2, 8, seed=7)


@case([(X,), (Y,), (X,)], (1, 2))
class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return torch.tanh(self.layer(x)) * self.count


@case([(X,), (Y,), (X,)], (1, 2))
class AttributeReplaced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.layer(x))
        self.mean = self.mean * 0.9 + y.mean(0) * 0.1
        return y - self.mean


@case([(X,), (Y,), (X,)], (1, 2))
class PythonCounter(nn.Module):
    calls: int

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(8, 8), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(self.layer(x)) * self.calls


@case([(floats(1, 1, 8, seed=i), torch.tensor([i])) for i in range(4)], (1, 3))
class KeyValueCache(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.register_buffer("keys", torch.zeros(1, 6, 8))
        self.register_buffer("values", torch.zeros(1, 6, 8))

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        self.keys.index_copy_(1, position, self.key(x))
        self.values.index_copy_(1, position, self.value(x))
        mask = torch.arange(6) > position
        scores = (self.query(x) @ self.keys.transpose(1, 2)).masked_fill(mask, float("-inf"))
        return torch.softmax(scores, -1) @ self.values


@case([(X,), (Y,)], (1, 2))
class InPlaceOnInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.layer(x)) + 1
        x.add_(1)
        return torch.relu(self.layer(y)) * 2


@case([(X,), (Y,)], (1, 2))
class InPlaceOnView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.layer(x)) + 1
        y[:, :2] = 0
        y[0].mul_(2)
        y.t()[3].add_(5)
        return torch.relu(self.layer(y)) * 2


@case([(X,), (Y,)], (0, 2))
class ReturnsViews(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x.t(), x[0], x.view(-1)


@case([(X,), (Y,)], (1, 3))
class OutputsAlias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.tanh(self.layer(x)) + 1
        return y, y.t(), y[0]


@case([(X,), (Y,)], (1, 2))
class SameOutputTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.tanh(self.layer(x)) + 1
        return y, y, x


@case([(X, Y), (Y, X)], (1, 2))
class InputReturned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor, unused: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.tanh(self.layer(x)) + 1


@case([(X, X), (Y, Y)], (1, 1))
class SameInputTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.layer(x)) + self.layer(y)


@case([(X, X), (Y, Y)], (0, 2))
class SameInputTwiceWritten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x.mul_(2)
        return torch.tanh(self.layer(y)) + torch.relu(self.layer(y))


@case([(X,), (Y,)], (1, 3))
class WrittenInLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(4, 2, 8)
        for i in range(4):
            x = torch.tanh(self.layer(x)) + 1
            out[i] = x
        return torch.sigmoid(self.layer(out))


@case([(X,), (Y,)], (1, 2))
class RandomOperator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(2, 8)
        return torch.tanh(self.layer(x)) * 2 + torch.softmax(self.layer(noise), -1) + torch.bernoulli(torch.sigmoid(x))


@case([(X,), (Y,)], (1, 1))
class InTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.drop = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(torch.tanh(self.layer(x))))
