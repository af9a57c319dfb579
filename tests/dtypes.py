"""Computations whose element types engines could get wrong: every backend is tried with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import bridge

Tensors = tuple[torch.Tensor, ...]
LARGE = [0, 1, -1, 2**31 - 1, 2**31, -(2**31), 2**32 + 5, -(2**33) - 7, 2**40 + 3, 2**53 + 1, -(2**60) + 1, 3 * 2**60]
"""Around and beyond the ends of int32, and what float64 cannot hold."""


@dataclass(frozen=True)
class Typed:
    """A computation and what it is called with.

    Attributes:
        compute: takes the inputs.
        inputs: for a size of the first dimension, the inputs; where that changes their shapes, it is dynamic.
        tolerance: relative to 1 + the expected value; 0: equal.
        whole: whether TensorRT takes all of it in one engine.
        settings: further settings of ``bridge.compile``.
    """

    compute: Callable[..., Any]
    inputs: Callable[[int], Tensors]
    tolerance: float = 0.0
    whole: bool = True
    settings: dict[str, Any] = field(default_factory=dict)

    def traced(self, device: str) -> torch.jit.ScriptModule:
        torch.manual_seed(0)
        module = self.compute if isinstance(self.compute, nn.Module) else _Module(self.compute)
        return torch.jit.trace(module.to(device).eval(), self.called_with(4, device), check_trace=False)

    def called_with(self, size: int, device: str) -> Tensors:
        return tuple(value.to(device) for value in self.inputs(size))

    def spec(self) -> list[Any]:
        """Of sizes 2 to 4."""
        low, high = self.inputs(2), self.inputs(4)
        return [
            b
            if a.shape == b.shape
            else bridge.Input(("n", *b.shape[1:]), min_shape=a.shape, opt_shape=b.shape, max_shape=b.shape, example=b)
            for a, b in zip(low, high, strict=True)
        ]


class _Module(nn.Module):
    def __init__(self, compute: Callable[..., Any]) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.compute(*inputs)


def agrees(compiled: nn.Module, module: nn.Module, case: Typed, size: int, device: str) -> None:
    """One call of both: dtypes, shapes and numbers; without a tolerance, all of them equal."""
    inputs = case.called_with(size, device)
    with torch.no_grad():
        found, expected = compiled(*inputs), module(*inputs)
    for a, b in zip(_listed(found), _listed(expected), strict=True):
        assert (a.dtype, a.shape, a.device) == (b.dtype, b.shape, b.device)
        if case.tolerance:
            error = (a.double() - b.double()).abs()
            assert (error <= case.tolerance * (1 + b.double().abs())).all(), error.max()
        else:
            assert torch.equal(a, b), [
                (x, y) for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True) if x != y
            ]


def _listed(results: Any) -> list[torch.Tensor]:
    return list(results) if isinstance(results, tuple) else [results]


def longs(size: int, shift: int = 0) -> torch.Tensor:
    """(size, 12) of int64 beyond int32; each row another order."""
    values = torch.tensor(LARGE)
    return torch.stack([values.roll(row * 5 + shift) for row in range(size)])


def floats(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _one(size: int) -> Tensors:
    return (longs(size),)


def _two(size: int) -> Tensors:
    return longs(size), longs(size, 1)


def _indexed(size: int) -> Tensors:
    return longs(size), torch.arange(size * 3).reshape(size, 3) * 5 % 12


def _beside_floats(size: int) -> Tensors:
    return longs(size), floats(size, 12)


TABLE = torch.tensor(LARGE) * 3 + 1

INT64 = {
    "add": Typed(lambda x, y: x + y, _two),
    "add a scalar": Typed(lambda x: x + 2**40 - 1, _one),
    "subtract from a scalar": Typed(lambda x: (2**35) - x, _one),
    "multiply": Typed(lambda x, y: x * y, _two),
    "multiply and wrap around": Typed(lambda x: x * 6_700_417, _one),
    "negative and absolute": Typed(lambda x: (-x, x.abs(), x.sign()), _one),
    "floor division": Typed(lambda x: x // 7, _one),
    "floor division by a negative": Typed(lambda x: x // -1_000_003, _one),
    "truncating division": Typed(lambda x: torch.div(x, 1_000_003, rounding_mode="trunc"), _one),
    "remainder": Typed(lambda x: x % 1_000_003, _one),
    "remainder of a large divisor": Typed(lambda x: torch.remainder(x, 2**33 + 1), _one),
    "fmod": Typed(lambda x: torch.fmod(x, 1_000_003), _one),
    "true division": Typed(lambda x: x / 3, _one, 1e-6),
    "square": Typed(lambda x: (x % 2**31) ** 2, _one),
    "compare": Typed(lambda x, y: (x > y, x == y, x <= y, x != y), _two),
    "compare with a scalar": Typed(lambda x: (x > 2**33, x == 2**53 + 1, x < -(2**31)), _one),
    "where": Typed(lambda x, y: torch.where(x > y, x, y * 2), _two),
    "where with a scalar": Typed(lambda x: torch.where(x > 2**32, x, 2**45 + 1), _one),
    "minimum and maximum": Typed(lambda x, y: (torch.minimum(x, y), torch.maximum(x, y)), _two),
    "clamp": Typed(lambda x: x.clamp(-(2**33), 2**53 + 1), _one),
    "masked fill": Typed(lambda x: x.masked_fill(x < 0, 2**50 + 1), _one),
    "gather": Typed(lambda x, i: x.gather(1, i), _indexed),
    "gather from a table": Typed(lambda x, i: TABLE.to(i.device)[i] + x[:, :3], _indexed),
    "index": Typed(lambda x, i: x[:, i[0]] + 1, _indexed),
    "concatenate, slice, flip": Typed(lambda x, y: torch.cat([x, y], 1)[:, 3:17:2].flip(1), _two),
    "pad": Typed(lambda x: nn.functional.pad(x, (1, 2), value=2**41), _one),
    "expand and transpose": Typed(lambda x: x.unsqueeze(1).expand(-1, 3, -1).transpose(1, 2) + 1, _one),
    "sum": Typed(lambda x: (x.sum(1), x.sum()), _one),
    "product": Typed(lambda x: (x[:, 1:6] % 100_003).prod(1), _one),
    "largest and smallest": Typed(lambda x: (x.amax(1), x.amin(0), x.max(), x.min()), _one),
    "argmax": Typed(lambda x: (x.argmax(1), x.argmin(1)), _one),
    "cumulative sum": Typed(lambda x: x.cumsum(1), _one),
    "top k": Typed(lambda x: x.topk(3, 1), _one),
    "sort": Typed(lambda x: x.sort(1).values, _one),
    "scatter": Typed(lambda x, i: torch.zeros_like(x).scatter(1, i, x[:, :3]), _indexed),
    "scatter add": Typed(lambda x, i: x.scatter_add(1, i, x[:, 3:6]), _indexed),
    "sum of products": Typed(lambda x, y: (x.unsqueeze(1) * y).sum(-1), lambda size: (longs(size), longs(1, 1))),
    "bits": Typed(lambda x: (x & 0xFFFF_FFFF_FF, x | 2**33, x ^ (2**42 - 1), ~x), _one),
    "shifts": Typed(lambda x: (x >> 3, (x % 2**20) << 30), _one),
    "down to int32 and back": Typed(
        lambda x: (x.clamp(-(2**31), 2**31 - 1).to(torch.int32) // 2).to(torch.int64) * 8, _one
    ),
    "to bool": Typed(lambda x: ((x * 2**32).bool(), x.bool().long() + x), _one),
    "to float": Typed(lambda x: x.float() * 0.5, _one, 1e-6),
    "from float": Typed(lambda x, y: (y * 2.0**45).long() + x, _beside_floats),
    "with floats": Typed(lambda x, y: x * y + 1, _beside_floats, 1e-6),
    "compare with floats": Typed(lambda x: x > 4294967296.5, _one),
    "hash": Typed(lambda x: ((x * 2_654_435_761 + 12_345) % (2**31 - 1)) % 97, _one),
    "positions": Typed(lambda x: torch.arange(x.shape[0], device=x.device).unsqueeze(1) * 2**35 + x, _one),
}


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(32, 64), nn.LayerNorm(64), nn.Linear(64, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(nn.functional.gelu(self.norm(self.first(x))))


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, stride=2, groups=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.norm(self.first(x))), 2)
        return nn.functional.silu(self.second(x))


class Upsampling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.last = nn.ConvTranspose2d(3, 8, 2, stride=2), nn.Conv2d(8, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.up(x)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1) / math.sqrt(width // 4)).masked_fill(~keep[:, None, None, :], -math.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, width))


def _image(size: int) -> Tensors:
    return (floats(size, 3, 16, 16),)


def _sequence(size: int) -> Tensors:
    keep = torch.arange(10).expand(size, 10) < torch.arange(5, 5 + size).unsqueeze(1)
    return floats(size, 10, 32), keep


def _in(module: type[nn.Module], inputs: Callable[[int], Tensors], dtype: torch.dtype, cast: bool) -> Typed:
    """A network in a half precision: cast by its author, or by ``precision``.

    TensorRT-RTX 1.7 does not build a transposed convolution in BF16.
    """
    whole = (module, dtype) != (Upsampling, torch.bfloat16)
    tolerance = 0.02 if dtype is torch.float16 else 0.1
    torch.manual_seed(0)
    made = module()
    if not cast:
        return Typed(made, inputs, tolerance, whole, {"precision": dtype})

    def narrowed(size: int) -> Tensors:
        return tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs(size))

    return Typed(made.to(dtype), narrowed, tolerance, whole)


_NETWORKS: Sequence[tuple[type[nn.Module], Callable[[int], Tensors]]] = [
    (Perceptron, lambda size: (floats(size, 32),)),
    (Convolutions, _image),
    (Upsampling, _image),
    (Attention, _sequence),
]
HALVES = {
    f"{module.__name__} {str(dtype).removeprefix('torch.')} {'by its author' if cast else 'by precision'}": _in(
        module, inputs, dtype, cast
    )
    for module, inputs in _NETWORKS
    for dtype in (torch.float16, torch.bfloat16)
    for cast in (True, False)
}


def _pixels(size: int) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    return (torch.randint(0, 256, (size, 8, 8, 3), dtype=torch.uint8, generator=generator),)


def _flags(size: int) -> Tensors:
    return floats(size, 6) > 0, floats(size, 6, seed=1) > 0


_DOUBLE = torch.float64
OTHERS = {
    "uint8 image": Typed(
        lambda x: nn.functional.avg_pool2d(x.permute(0, 3, 1, 2).float() / 255 - 0.5, 2).exp(), _pixels, 1e-5, False
    ),
    "uint8 arithmetic": Typed(lambda x: (x + 200, x * 3, 255 - x, x // 7), _pixels, whole=False),
    "bool in and out": Typed(lambda x, y: (x & y, x | ~y, x ^ y, x.all(1), y.any(1), x == y), _flags),
    "bool to numbers": Typed(lambda x, y: (x.sum(1), y.float() * 2 + x, x.int() - y.long()), _flags),
    "bool chooses": Typed(lambda x, y: torch.where(x, y, ~y).cumsum(1), _flags),
    "double": Typed(lambda x: (x * 1e-9 + 1).log() @ x.T, lambda size: (floats(size, 8).to(_DOUBLE),), 1e-12, False),
    "double out of an engine's floats": Typed(
        lambda x: (x.relu() @ x.T + 1).double().softmax(-1), lambda size: (floats(size, 8),), 1e-5, False
    ),
    "double as float": Typed(
        lambda x: (x.exp() + 1).log() @ x.T,
        lambda size: (floats(size, 8).to(_DOUBLE),),
        1e-5,
        settings={"truncate_double": True},
    ),
    "int32": Typed(
        lambda x: (x * 65_537, x // -3, x % 7, x.cumsum(1, dtype=torch.int32)),
        lambda size: (longs(size)[:, :5].to(torch.int32),),
    ),
    "int8 and int16": Typed(
        lambda x: (x.to(torch.int16) * 300, x * 3), lambda size: ((longs(size) % 90).to(torch.int8),), whole=False
    ),
    "no dimensions": Typed(
        lambda x, y, i: ((x * y).exp(), (x + y.sum()).tanh(), i * 3 + 2**40),
        lambda size: (torch.tensor(0.5), floats(size, 3), torch.tensor(2**41)),
        1e-5,
    ),
    "empty": Typed(
        lambda x, y: (torch.cat([x[:, :0], y], 1).exp() * 2, x[:, 3:3].sum(1), (y @ y.T).relu()),
        lambda size: (floats(size, 3), floats(size, 4)),
        1e-5,
        False,
    ),
    "empty input": Typed(
        lambda x, y: (torch.cat([x, y], 1).exp() @ y.T, x * 2),
        lambda size: (floats(size, 0), floats(size, 4)),
        1e-5,
        False,
    ),
    "shapes as numbers": Typed(
        lambda x: (
            x.reshape(-1, x.shape[0]) / x.shape[0],
            x.new_ones(x.shape[0], 3) + x.shape[0],
            torch.arange(x.shape[0], device=x.device) + x.numel(),
        ),
        lambda size: (floats(size, 4),),
        1e-5,
    ),
    "sizes that decide sizes": Typed(
        lambda x: nn.functional.interpolate(x[None, None], size=(x.shape[0] * 2, 5))[0, 0].expand(3, -1, -1).exp(),
        lambda size: (floats(size, 4),),
        1e-5,
    ),
    "complement of a mask": Typed(
        lambda x: x.masked_fill((x > 0).logical_not(), -1e9).softmax(1),
        lambda size: (floats(size, 5).abs() + 1e-3,),
        1e-5,
    ),
}

CASES = {f"int64: {name}": case for name, case in INT64.items()} | HALVES | OTHERS
