"""Examples: the shapes that a rule must handle, from which `rewrites.testing` makes its tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import helper

from rewrites.errors import RewriteError

SIZES = (2, 3, 5, 4, 6, 7)


@dataclass(frozen=True)
class TensorSpec:
    """A graph input of an example.

    Attributes:
        shape: ints, and strings for dynamic axes.
        dtype: numpy's name of the element type.
        low, high: range of the random values, `high` excluded for integers; None: normal floats, integers in 0..9.
        values: these values instead of random ones.
    """

    shape: tuple[int | str, ...]
    dtype: str = "float32"
    low: float | None = None
    high: float | None = None
    values: Any = None

    def sample(self, rng: np.random.Generator, sizes: dict[str, int]) -> np.ndarray[Any, Any]:
        """Random values; a dynamic axis has the size that `sizes` gives it."""
        from rewrites.infer import numpy_type

        name = self.dtype
        dtype = numpy_type(16) if name == "bfloat16" else np.dtype(name)
        if self.values is not None:
            return np.array(self.values, dtype)
        shape = [s if isinstance(s, int) else sizes[s] for s in self.shape]
        if name == "bool":
            return np.asarray(rng.integers(0, 2, shape).astype(bool))
        if np.dtype(dtype).kind in "iu":
            return np.asarray(
                rng.integers(int(self.low or 0), int(10 if self.high is None else self.high), shape).astype(dtype)
            )
        if self.low is None and self.high is None:
            return np.asarray(rng.standard_normal(shape).astype(dtype))
        return np.asarray(rng.uniform(self.low or 0.0, 1.0 if self.high is None else self.high, shape).astype(dtype))


def tensor(
    *shape: int | str, dtype: str = "float32", low: float | None = None, high: float | None = None, values: Any = None
) -> TensorSpec:
    """An input of an example that is not plain float32: `tensor(2, "n", dtype="int64", low=-5, high=5)`."""
    for size in shape:
        if not isinstance(size, (int, str)) or isinstance(size, bool) or (isinstance(size, int) and size < 0):
            raise RewriteError(f"tensor: expected sizes and names of dynamic axes, got {size!r}")
    try:
        helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    except (TypeError, ValueError, KeyError) as error:
        raise RewriteError(f"tensor: {dtype!r} is no element type of ONNX", hint='as "float32" or "int64"') from error
    return TensorSpec(shape, dtype, low, high, values)


@dataclass(frozen=True)
class Example:
    """One example; made by `example`."""

    arguments: dict[str, Any]
    because: str | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    rtol: float = 1e-4
    atol: float = 1e-5
    fires: int = 1
    opset: int | None = None
    builds: bool = True
    pattern: str | None = None
    outputs: int | None = None

    def size_of(self) -> dict[str, int]:
        """A size for every dynamic axis."""
        given = [a for v in self.arguments.values() for a in (v if isinstance(v, list) else [v])]
        shapes = [a if isinstance(a, tuple) else a.shape for a in given if isinstance(a, (tuple, TensorSpec))]
        names = list(dict.fromkeys(d for shape in shapes for d in shape if isinstance(d, str)))
        return {name: self.sizes.get(name, SIZES[i % len(SIZES)]) for i, name in enumerate(names)}

    def __str__(self) -> str:
        return ",".join(f"{k}={v if not isinstance(v, TensorSpec) else v.shape}" for k, v in self.arguments.items())


def example(
    *,
    because: str | None = None,
    _sizes: dict[str, int] | None = None,
    _rtol: float = 1e-4,
    _atol: float = 1e-5,
    _fires: int = 1,
    _opset: int | None = None,
    _builds: bool = True,
    _pattern: str | None = None,
    _outputs: int | None = None,
    **arguments: Any,
) -> Example:
    """An example of the arguments of a rule's pattern, or of the inputs and attributes of the operator it matches.

    A tuple is the shape of a float32 graph input, strings being dynamic axes; `tensor(...)` an input of another kind; a
    numpy array a constant; everything else an attribute, or a constant where the pattern reads an input. `text=` holds
    a whole graph in ONNX's text syntax instead.

    Args:
        because: for refusals, what the reason must contain.
        _sizes: sizes of the dynamic axes when the example runs.
        _rtol, _atol: tolerances against the original in ONNX Runtime.
        _fires: how often the rule fires.
        _opset: the opset, when it matters; 20 otherwise.
        _builds: False where TensorRT-RTX cannot build the result for a reason outside the rule.
        _pattern: which of the rule's pattern functions it is for; the first otherwise.
        _outputs: how many outputs the operator has, for `matches=` rules; how many of them are used, for lowerings.
    """
    return Example(arguments, because, _sizes or {}, _rtol, _atol, _fires, _opset, _builds, _pattern, _outputs)
