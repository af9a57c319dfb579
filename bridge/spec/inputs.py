"""What the compiler is told about one input tensor: its shapes, its dtype, its name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch

from bridge.errors import SpecError
from bridge.spec.complaints import unknown, wrong
from bridge.spec.dtypes import as_dtype

_LARGEST, _MOST_DIMENSIONS = 2**63 - 1, 64

Shape = tuple[int, ...]
Dims = tuple["int | str", ...]

_FOREIGN = {"tensor_domain": "value_range", "torch_tensor": "example"}
_FIELDS = ("shape", "min_shape", "opt_shape", "max_shape", "dtype", "name", "example", "value_range")


class Input:
    """One input tensor of a module.

    A static shape is a sequence of ints. A dynamic one has ``min_shape``, ``opt_shape`` and ``max_shape``; ``shape``
    may then name its dynamic dimensions (``Input(("batch", 3, 224, 224), min_shape=..., ...)``) or mark them by -1.
    Inputs that use one name share the dimension: its range must be the same in all of them.

    Args:
        shape: the dimensions, each an int, a name, or -1; may be left out when the other shapes or ``example`` tell.
        min_shape, opt_shape, max_shape: the range of each dimension, and the shape to optimise for (by default that of
            ``example``).
        dtype: the dtype callers pass; by default that of ``example``, else what the module takes (float32).
        name: the input's name in the engine; by default the name of the module's argument.
        example: a tensor to run the module with while it is compiled: real data where random numbers will not do.
        value_range: (low, high), the half-open range to draw example values from when there is no ``example``.

    Torch-TensorRT's ``tensor_domain`` (value_range), ``torch_tensor`` (example) and ``format`` are taken too.

    Raises:
        SpecError: naming the field and what it may be.
    """

    __slots__ = _FIELDS
    shape: Dims
    min_shape: Shape
    opt_shape: Shape
    max_shape: Shape
    dtype: torch.dtype | None
    name: str | None
    example: torch.Tensor | None
    value_range: tuple[float, float] | None

    def __init__(
        self,
        shape: Sequence[int | str] | None = None,
        *,
        min_shape: Sequence[int] | None = None,
        opt_shape: Sequence[int] | None = None,
        max_shape: Sequence[int] | None = None,
        dtype: object = None,
        name: str | None = None,
        example: torch.Tensor | None = None,
        value_range: tuple[float, float] | None = None,
        **others: Any,
    ) -> None:
        values = (shape, min_shape, opt_shape, max_shape, dtype, name, example, value_range)
        ours: dict[str, Any] = dict(zip(_FIELDS, values, strict=True))
        self._settle("Input", _translated("Input", ours, others))

    @classmethod
    def at(cls, field: str, **settings: Any) -> Input:
        """An Input whose errors name ``field``, the place in the spec where it was found."""
        new = cls.__new__(cls)
        ours = {name: settings.pop(name, None) for name in _FIELDS}
        new._settle(field, _translated(field, ours, settings))
        return new

    @classmethod
    def from_tensor(cls, tensor: torch.Tensor, *, name: str | None = None) -> Input:
        """A static input with the tensor's shape and dtype, and the tensor as its example."""
        return cls(example=tensor, name=name)

    def __setattr__(self, name: str, value: object) -> None:
        raise SpecError(f"Input.{name}: an Input does not change once made", hint="make a new one")

    def _settle(self, field: str, given: dict[str, Any]) -> None:
        example = _checked_example(field, given["example"])
        kinds = ("min_shape", "opt_shape", "max_shape")
        shapes = {kind: _as_sizes(f"{field}.{kind}", given[kind]) for kind in kinds}
        dims = _as_dims(f"{field}.shape", given["shape"])
        dims, low, best, high = _agree(field, dims, shapes, example)
        if len(dims) > _MOST_DIMENSIONS:
            raise SpecError(f"{field}.shape: {len(dims)} dimensions, but a tensor has {_MOST_DIMENSIONS} at most")
        settled: dict[str, Any] = dict(zip(("shape", *kinds), (dims, low, best, high), strict=True))
        settled["example"] = example
        settled["dtype"] = _agreed_dtype(field, given["dtype"], example)
        settled["name"] = _checked_name(field, given["name"])
        settled["value_range"] = _checked_range(field, given["value_range"], settled["dtype"])
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    @property
    def rank(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def is_dynamic(self) -> bool:
        """Whether any dimension has a range."""
        return self.min_shape != self.max_shape

    def _state(self) -> tuple[object, ...]:
        ranged = (self.min_shape, self.opt_shape, self.max_shape)
        return (self.shape, *ranged, self.dtype, self.name, id(self.example), self.value_range)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Input) and self._state() == other._state()

    def __hash__(self) -> int:
        return hash(self._state())

    def __repr__(self) -> str:
        parts = [repr(self.shape)]
        if self.is_dynamic:
            parts += [f"{kind}={getattr(self, kind)}" for kind in ("min_shape", "opt_shape", "max_shape")]
        parts += [f"{kind}={value!r}" for kind in ("dtype", "name", "value_range") if (value := getattr(self, kind))]
        if self.example is not None:
            parts.append(f"example=<{self.example.dtype} tensor of shape {tuple(self.example.shape)}>")
        return f"Input({', '.join(parts)})"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, tuple(getattr(self, name) for name in _FIELDS)


def _rebuild(*state: Any) -> Input:
    return Input.at("Input", **dict(zip(_FIELDS, state, strict=True)))


def _translated(field: str, ours: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Torch-TensorRT's names of the fields as ours; unknown ones are refused."""
    for name, value in others.items():
        if name == "format":
            if value not in (None, torch.contiguous_format, torch.channels_last):
                raise wrong(f"{field}.format", value, "torch.contiguous_format or torch.channels_last")
        elif name not in _FOREIGN:
            raise unknown(field, name, [*_FIELDS, *_FOREIGN, "format"])
        elif ours[_FOREIGN[name]] is not None:
            raise SpecError(f"{field}: {name} and {_FOREIGN[name]} mean the same; give one of them")
        else:
            ours[_FOREIGN[name]] = value
    return ours


def _as_sizes(field: str, value: object) -> Shape | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise wrong(field, value, "a sequence of sizes", hint="for example (1, 3, 224, 224)")
    for axis, size in enumerate(value):
        if isinstance(size, bool) or not isinstance(size, Integral) or not 0 <= int(size) <= _LARGEST:
            raise wrong(f"{field}[{axis}]", size, "a size, zero or more")
    return tuple(int(size) for size in value)


def _as_dims(field: str, value: object) -> Dims | None:
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        raise wrong(field, "a tensor", "a shape", hint="use Input.from_tensor(tensor), or its .shape")
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise wrong(field, value, "a sequence of sizes and names", hint='for example ("batch", 3, 224, 224)')
    for axis, size in enumerate(value):
        usable = size != "" if isinstance(size, str) else isinstance(size, Integral) and -1 <= int(size) <= _LARGEST
        if not usable or isinstance(size, bool):
            raise wrong(f"{field}[{axis}]", size, "a size, a name or -1")
    return tuple(size if isinstance(size, str) else int(size) for size in value)


def _agree(
    field: str, dims: Dims | None, shapes: dict[str, Shape | None], example: torch.Tensor | None
) -> tuple[Dims, Shape, Shape, Shape]:
    """The dimensions and their ranges, once everything given agrees."""
    if all(shape is None for shape in shapes.values()):
        return _static(field, dims, example)
    if example is not None and shapes["opt_shape"] is None:
        shapes = shapes | {"opt_shape": tuple(example.shape)}
    low, best, high = _complete(field, shapes)
    dims = dims if dims is not None else (-1,) * len(best)
    _check_ranks(field, dims, shapes)
    for axis, size in enumerate(dims):
        _check_axis(field, axis, size, (low[axis], best[axis], high[axis]))
    if example is not None:
        _check_example_fits(field, tuple(example.shape), low, high)
    settled = tuple(low[axis] if low[axis] == high[axis] else size for axis, size in enumerate(dims))
    return settled, low, best, high


def _static(field: str, dims: Dims | None, example: torch.Tensor | None) -> tuple[Dims, Shape, Shape, Shape]:
    if dims is None and example is None:
        raise SpecError(f"{field}.shape: missing", hint="give shape, or min_shape, opt_shape and max_shape, or example")
    dims = tuple(example.shape) if dims is None and example is not None else dims
    assert dims is not None
    for axis, size in enumerate(dims):
        if isinstance(size, str) or size == -1:
            hint = "add min_shape, opt_shape and max_shape"
            raise SpecError(f"{field}.shape[{axis}]: the dynamic dimension {size!r} needs a range", hint=hint)
    shape = tuple(int(size) for size in dims)
    if example is not None and tuple(example.shape) != shape:
        raise SpecError(f"{field}.example: its shape is {tuple(example.shape)}, but shape says {shape}")
    return shape, shape, shape, shape


def _complete(field: str, shapes: dict[str, Shape | None]) -> tuple[Shape, Shape, Shape]:
    for kind, shape in shapes.items():
        if shape is None:
            given = ", ".join(other for other, value in shapes.items() if value is not None)
            hint = "a dynamic input has min_shape, opt_shape and max_shape"
            raise SpecError(f"{field}.{kind}: missing beside {given}", hint=hint)
    low, best, high = shapes.values()
    assert low is not None and best is not None and high is not None
    return low, best, high


def _check_ranks(field: str, dims: Dims, shapes: dict[str, Shape | None]) -> None:
    ranks = {"shape": len(dims)} | {kind: len(shape or ()) for kind, shape in shapes.items()}
    for kind, rank in ranks.items():
        if rank != ranks["opt_shape"]:
            told = f"{field}.{kind}: {rank} dimensions, but opt_shape has {ranks['opt_shape']}"
            raise SpecError(told, hint="shape, min_shape, opt_shape and max_shape have one rank")


def _check_axis(field: str, axis: int, size: int | str, bounds: tuple[int, int, int]) -> None:
    low, best, high = bounds
    if low > best:
        raise SpecError(f"{field}.min_shape[{axis}]: {low} is more than opt_shape's {best}", hint="min <= opt <= max")
    if best > high:
        raise SpecError(f"{field}.opt_shape[{axis}]: {best} is more than max_shape's {high}", hint="min <= opt <= max")
    if isinstance(size, int) and size != -1 and (low, high) != (size, size):
        told = f"{field}.shape[{axis}]: the size is {size}, but min_shape and max_shape allow {low} to {high}"
        raise SpecError(told, hint="write -1 or a name there when the dimension is dynamic")


def _check_example_fits(field: str, shape: Shape, low: Shape, high: Shape) -> None:
    inside = len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
    if not inside:
        raise SpecError(f"{field}.example: its shape {shape} is not between min_shape {low} and max_shape {high}")


def _checked_example(field: str, example: object) -> torch.Tensor | None:
    if example is not None and not isinstance(example, torch.Tensor):
        raise wrong(f"{field}.example", example, "a tensor")
    if example is not None and example.is_meta:
        raise SpecError(f"{field}.example: a tensor on the meta device has no values", hint="give its shape instead")
    if example is not None and (example.is_quantized or example.is_nested):  # what reads sparse ones stays in PyTorch
        kind = "quantized" if example.is_quantized else "nested"
        raise SpecError(f"{field}.example: a {kind} tensor cannot go into an engine", hint="give a dense one")
    return example if example is None or example.is_leaf else example.detach()


def _agreed_dtype(field: str, dtype: object, example: torch.Tensor | None) -> torch.dtype | None:
    if dtype is None:
        return None if example is None else example.dtype
    settled = as_dtype(dtype, f"{field}.dtype")
    if example is not None and example.dtype != settled:
        raise SpecError(f"{field}.example: its dtype is {example.dtype}, but dtype says {settled}")
    return settled


def _checked_name(field: str, name: object) -> str | None:
    if name is not None and (not isinstance(name, str) or not name):
        raise wrong(f"{field}.name", name, "a name")
    return name or None


def _checked_range(field: str, bounds: object, dtype: torch.dtype | None) -> tuple[float, float] | None:
    if bounds is None:
        return None
    numbers = isinstance(bounds, Sequence) and all(isinstance(bound, int | float) for bound in bounds)
    if not numbers or len(bounds) != 2 or not -math.inf < bounds[0] < bounds[1] < math.inf:  # type: ignore[arg-type,index]
        raise wrong(f"{field}.value_range", bounds, "(low, high) with low < high, neither of them infinite")
    low, high = bounds[0], bounds[1]  # type: ignore[index]
    if dtype is not None and not dtype.is_floating_point and not dtype.is_complex and dtype is not torch.bool:
        kind, name = torch.iinfo(dtype), str(dtype).removeprefix("torch.")
        if not kind.min <= low or not high - 1 <= kind.max:
            raise SpecError(f"{field}.value_range: {name} holds {kind.min} to {kind.max}, not {low} to {high}")
        if int(low) >= int(high):
            hint = "a half-open range: (0, 2) gives 0 and 1"
            raise SpecError(f"{field}.value_range: there is no {name} from {low} to below {high}", hint=hint)
    return low, high
