"""What must be known about an engine without reading its plan: the string argument of `bridge::execute_engine`.

A kernel for fake tensors cannot read the plan, so the element types and the shapes of the outputs stand here, the
shapes as expressions over the inputs' shapes: ``"i0.2"`` is the size of input 0 in dimension 2; ``+ - * // %``,
``floor(a / b)``, ``ceil(a / b)``, ``min`` and ``max`` combine them; ``"?"`` is known only once the engine has run.
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import torch

from bridge.errors import EngineError

VERSION = 1
UNKNOWN = "?"

Size: TypeAlias = "int | torch.SymInt"
Shapes: TypeAlias = "Sequence[Sequence[Size]]"
Evaluator: TypeAlias = "Callable[[Shapes], Any]"


@dataclass(frozen=True)
class Range:
    """The sizes a dynamic dimension may have, both ends included; dimensions of one name have one size in a call."""

    min: int
    opt: int
    max: int
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.name}={self.min}..{self.max}" if self.name else f"{self.min}..{self.max}"


@dataclass(frozen=True)
class InputSignature:
    """An input.

    Attributes:
        name: the user's name for it.
        dtype: what the engine takes.
        accepts: further dtypes that a caller may pass; they are cast.
        dims: a size or a range for each dimension; None where even the rank is free.
    """

    name: str
    dtype: str
    accepts: tuple[str, ...] = ()
    dims: tuple[int | Range, ...] | None = None


@dataclass(frozen=True)
class OutputSignature:
    """An output.

    Attributes:
        name: the user's name for it.
        dtype: what the caller gets; cast when the engine gives another.
        dims: a size or an expression for each dimension; None where even the rank is known only after a run.
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...] | None = None


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of one engine call, in the order of the call, and the options it runs with."""

    inputs: tuple[InputSignature, ...]
    outputs: tuple[OutputSignature, ...]
    options: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION

    def to_json(self) -> str:
        """The compact JSON that the operator takes."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Signature:
        """The signature in this text; EngineError when it is of a newer version."""
        return _parse(text)

    def output_shapes(self, shapes: Shapes) -> list[list[Any] | None]:
        """Each output's shape for these input shapes (ints or SymInts); None stands for what is unknown."""
        return [None if out.dims is None else [evaluate(dim, shapes) for dim in out.dims] for out in self.outputs]


@lru_cache(maxsize=4096)
def _parse(text: str) -> Signature:
    record = json.loads(text)
    if record["version"] != VERSION:
        raise EngineError(
            f"this module's engine call has signature version {record['version']}; this bridge reads {VERSION}",
            hint="update bridge, or compile the module again",
        )
    inputs = tuple(
        InputSignature(item["name"], item["dtype"], tuple(item["accepts"]), _input_dims(item["dims"]))
        for item in record["inputs"]
    )
    outputs = tuple(
        OutputSignature(item["name"], item["dtype"], None if item["dims"] is None else tuple(item["dims"]))
        for item in record["outputs"]
    )
    return Signature(inputs, outputs, record["options"], record["version"])


def _input_dims(dims: list[Any] | None) -> tuple[int | Range, ...] | None:
    if dims is None:
        return None
    return tuple(Range(**dim) if isinstance(dim, dict) else int(dim) for dim in dims)


def evaluate(dim: int | str, shapes: Shapes) -> Any:
    """The size that a dimension's expression has for these input shapes; None for ``"?"``."""
    if isinstance(dim, int):
        return dim
    return None if dim == UNKNOWN else _compiled(dim)(shapes)


@lru_cache(maxsize=4096)
def _compiled(text: str) -> Evaluator:
    # "i0.2" is no Python name: "i0_2" is
    tree = ast.parse(re.sub(r"\bi(\d+)\.(\d+)", r"i\1_\2", text), mode="eval")
    return _compile(tree.body, text)


def _compile(node: ast.expr, text: str) -> Evaluator:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        value = node.value
        return lambda shapes: value
    if isinstance(node, ast.Name) and (match := re.fullmatch(r"i(\d+)_(\d+)", node.id)):
        which, axis = int(match[1]), int(match[2])
        return lambda shapes: shapes[which][axis]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        operand = _compile(node.operand, text)
        return lambda shapes: -operand(shapes)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        apply, left, right = _OPERATORS[type(node.op)], _compile(node.left, text), _compile(node.right, text)
        return lambda shapes: apply(left(shapes), right(shapes))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args and not node.keywords:
        return _compile_call(node.func.id, node.args, text)
    raise EngineError(
        f"{text!r} is no expression for the size of a dimension", hint="i0.2, + - * // %, floor, ceil, min, max"
    )


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def _compile_call(name: str, args: list[ast.expr], text: str) -> Evaluator:
    if name in ("floor", "ceil") and len(args) == 1:
        body = args[0]
        if not (isinstance(body, ast.BinOp) and isinstance(body.op, ast.Div)):
            return _compile(body, text)
        above, below = _compile(body.left, text), _compile(body.right, text)
        if name == "floor":
            return lambda shapes: above(shapes) // below(shapes)
        return lambda shapes: -(-above(shapes) // below(shapes))
    if name in ("min", "max"):
        choose = torch.sym_min if name == "min" else torch.sym_max
        parts = [_compile(arg, text) for arg in args]

        def extreme(shapes: Shapes) -> Any:
            result = parts[0](shapes)
            for part in parts[1:]:
                result = choose(result, part(shapes))
            return result

        return extreme
    raise EngineError(f"{text!r} calls {name!r}, which sizes do not know", hint="floor, ceil, min, max")
