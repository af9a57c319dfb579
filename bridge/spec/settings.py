"""What each setting may be: one function a kind of value, each returning it normalised or raising a SpecError."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from bridge.errors import SpecError
from bridge.spec.complaints import unknown, wrong
from bridge.spec.dtypes import NAMED, as_dtype
from bridge.spec.inputs import Input
from bridge.spec.structure import Constant, is_shape, normalized

BACKENDS = ("auto", "tensorrt", "tensorrt_rtx", "onnxruntime")
PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)
VERBOSITIES = ("none", "layer_names_only", "detailed")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MOST_BYTES = 1 << 62

Check = Callable[[str, Any], Any]


def flag(field: str, value: Any) -> bool:
    """True or False, nothing else."""
    if not isinstance(value, bool):
        raise wrong(field, value, "True or False")
    return value


def whole_number(low: int, high: int | None = None) -> Check:
    """An int between two bounds."""

    def check(field: str, value: Any) -> int:
        size = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else low - 1
        if size < low or (high is not None and size > high):
            raise wrong(field, value, f"a whole number of at least {low}" if high is None else f"{low} to {high}")
        return size

    return check


def optional(check: Check) -> Check:
    """None, or what the other check takes."""
    return lambda field, value: None if value is None else check(field, value)


def one_of(*known: str) -> Check:
    """One of a few names, in any case."""

    def check(field: str, value: Any) -> str:
        if not isinstance(value, str):
            raise wrong(field, value, "one of " + ", ".join(known))
        if value.lower() not in known:
            raise unknown(field, value, known)
        return value.lower()

    return check


def precision(field: str, value: Any) -> torch.dtype:
    """float32, float16 or bfloat16, by any of their names."""
    settled = as_dtype(value, field, [name for name, dtype in NAMED.items() if dtype in PRECISIONS])
    if settled in (torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2):
        hint = "quantize the module first, with bridge.quantize; what it rounds is in INT8 then, whatever the precision"
        raise SpecError(f"{field}: {settled} needs ranges that a dtype does not give", hint=hint)
    if settled not in PRECISIONS:
        raise wrong(field, value, "torch.float32, torch.float16 or torch.bfloat16")
    return settled


def profiles(field: str, value: Any) -> tuple[dict[str, tuple[int, int, int]], ...]:
    """Dicts of (min, opt, max) by the name of a dimension."""
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise wrong(field, value, 'a list of profiles such as [{"batch": (1, 1, 1)}, {"batch": (2, 16, 32)}]')
    return tuple(_profile(f"{field}[{index}]", item) for index, item in enumerate(value))


def _profile(field: str, item: Any) -> dict[str, tuple[int, int, int]]:
    if not isinstance(item, Mapping) or not item:
        raise wrong(field, item, 'a dict of (min, opt, max) by the name of a dimension, such as {"batch": (1, 8, 32)}')
    for name, sizes in item.items():
        whole = isinstance(sizes, list | tuple) and len(sizes) == 3 and all(type(size) is int for size in sizes)
        if not whole or not 0 <= sizes[0] <= sizes[1] <= sizes[2]:
            raise wrong(f"{field}[{name!r}]", sizes, "(min, opt, max), three sizes that do not fall")
    return {str(name): tuple(sizes) for name, sizes in item.items()}


def size_in_bytes(field: str, value: Any) -> int:
    """Bytes, or a string such as "2GiB"."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", value.lower())
        size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    else:
        size = value if isinstance(value, int) and not isinstance(value, bool) else 0
    if 0 < size <= _MOST_BYTES:
        return size
    raise wrong(field, value, 'a number of bytes, or a size such as "2GiB"')


def file_path(field: str, value: Any) -> Path:
    """A path; `~` is the home directory."""
    if not isinstance(value, str | Path) or not str(value):
        raise wrong(field, value, "a path")
    return Path(value).expanduser()


def names(field: str, value: Any) -> tuple[str, ...]:
    """Distinct names."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise wrong(field, value, "a list of names")
    found = tuple(value)
    for index, name in enumerate(found):
        if not isinstance(name, str) or not name:
            raise wrong(f"{field}[{index}]", name, "a name")
        if name in found[:index]:
            raise SpecError(f"{field}[{index}]: {name!r} is there twice")
    return found


def operators(field: str, value: Any) -> tuple[str, ...]:
    """Operators as "aten::name" or "aten::name.overload"; `torch.ops.aten.name` is taken too."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise wrong(field, value, 'a list of operators such as ["aten::topk"]')
    return tuple(_operator(f"{field}[{index}]", item) for index, item in enumerate(value))


def _operator(field: str, item: Any) -> str:
    if isinstance(item, torch._ops.OpOverload):
        return str(item.name()).removesuffix(".default")
    if isinstance(item, torch._ops.OpOverloadPacket):
        return str(item._qualified_op_name)
    text = item.removeprefix("torch.ops.") if isinstance(item, str) else ""
    if re.fullmatch(r"\w+\.\w+(\.\w+)?", text):
        text = text.replace(".", "::", 1)
    if not re.fullmatch(r"\w+::\w+(\.\w+)?", text):
        hint = f'did you mean "aten::{item}"?' if isinstance(item, str) and item.isidentifier() else None
        raise wrong(field, item, 'an operator such as "aten::topk"', hint=hint)
    return text.removesuffix(".default")


def modules(field: str, value: Any) -> tuple[str, ...]:
    """Modules by path ("encoder.layer.0") or by the name of their type; the types themselves are taken too."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise wrong(field, value, "a list of module paths or types")
    return names(
        field, [f"{item.__module__}.{item.__qualname__}" if isinstance(item, type) else item for item in value]
    )


def rules(field: str, value: Any) -> tuple[Any, ...]:
    """Rewrite rules, as the decorators of `rewrites` make them."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise wrong(field, value, "a list of rules")
    made = tuple(value)
    for position, item in enumerate(made):
        if not (isinstance(getattr(item, "name", None), str) and hasattr(item, "short_name")):
            hint = "make them with rewrites.rule, rewrites.lowering, rewrites.graph_pass or rewrites.plugin"
            raise wrong(f"{field}[{position}]", item, "a rewrite rule", hint=hint)
    return made


def target(field: str, value: Any) -> str:
    """A compiler whose parser decides what is supported, with its version where it matters: "tensorrt:10.6"."""
    text = str(value).strip().lower().replace("==", ":").replace(" ", ":")
    name, _, version = text.partition(":")
    if name not in BACKENDS[1:]:
        raise unknown(field, name, BACKENDS[1:], hint='write for example "tensorrt:10.6"')
    if version and not re.fullmatch(r"\d+(\.\d+)*", version):
        raise wrong(field, value, 'a compiler and its version, such as "tensorrt:10.6"')
    return f"{name}:{version}" if version else name


def verbosity(field: str, value: Any) -> str:
    """What engines tell about their layers; TensorRT's enumeration is taken too."""
    text = str(getattr(value, "name", value)).lower()
    return str(one_of(*VERBOSITIES)(field, {"layer_names": "layer_names_only"}.get(text, text)))


def callback(field: str, value: Any) -> Callable[[str, int, int], None]:
    """A function of (stage, steps done, steps in all)."""
    if not callable(value):
        raise wrong(field, value, "a function of (stage: str, done: int, total: int)")
    return value  # type: ignore[no-any-return]


def inputs(field: str, value: Any) -> tuple[Any, ...]:
    """The positional inputs as a tuple of normalised items."""
    if isinstance(value, Input | Constant | torch.Tensor):
        value = (value,)
    if isinstance(value, Mapping):
        hint = "inputs given by the arguments' names go into kwarg_inputs"
        raise wrong(field, value, "a list of inputs", hint=hint)
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise wrong(field, value, "a list of Inputs, tensors or shapes")
    items = tuple(value)
    if items and is_shape(items):
        raise wrong(field, value, "a list of inputs", hint=f"one input of that shape is [{list(items)}]")
    return tuple(normalized(item, f"{field}[{index}]") for index, item in enumerate(items))


def keyword_inputs(field: str, value: Any) -> dict[str, Any]:
    """The inputs passed by name, as a dict of normalised items."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise wrong(field, value, "a dict from argument names to inputs")
    return {name: normalized(item, f"{field}[{name!r}]") for name, item in value.items()}
