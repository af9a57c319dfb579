"""Operators that ONNX cannot express, as nodes: domain `torch.<namespace>`, the schema, and its arguments in JSON.

`arguments` has one entry per schema argument: a literal, {"input": k} for the node's k-th input, a list of such, or
{"dtype": "float32"}, {"device": "cpu"} and the like for what JSON has no word for. `seen`, which may be left out, has
the shape of each input in some run of the model, null where it is not known.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import onnx_graphsurgeon as gs

from rewrites.errors import RewriteError
from rewrites.graph import Node, Value

PREFIX = "torch."
ANY = (PREFIX + "*", "*")  # the key of rules for every operator of every torch domain
REQUIRED = object()


@dataclass(frozen=True)
class Argument:
    """One argument of a schema; `default` is REQUIRED when it has none."""

    name: str
    type: str
    default: Any
    keyword_only: bool


@dataclass(frozen=True)
class Schema:
    """A parsed operator schema, `namespace::name.overload(arguments) -> results`."""

    namespace: str
    name: str
    overload: str
    arguments: tuple[Argument, ...]

    @property
    def operator(self) -> str:
        """`name.overload`, or `name`."""
        return f"{self.name}.{self.overload}" if self.overload else self.name


@dataclass(frozen=True)
class Call:
    """A torch node, decoded: each schema argument's value is a literal, a Value or a list of these."""

    schema: Schema
    arguments: dict[str, Any]

    def named(self) -> dict[str, Any]:
        """The arguments by name, defaults filled in; `self` is also there as `self_`."""
        found = {
            a.name: self.arguments.get(a.name, None if a.default is REQUIRED else a.default)
            for a in self.schema.arguments
        }
        return {**found, "self_": found["self"]} if "self" in found else found


@lru_cache(maxsize=4096)
def parse_schema(text: str) -> Schema:
    """Parse a schema as PyTorch prints it.

    Raises:
        RewriteError: when it cannot be read.
    """
    found = re.match(r"\s*(\w+)::(\w+)(?:\.(\w+))?\((.*)\)\s*->", text, re.S)
    if not found:
        raise RewriteError(f"not an operator schema: {text!r}", hint="as 'aten::relu(Tensor self) -> Tensor'")
    arguments, keyword_only = [], False
    for part in _comma_parts(found[4]):
        if part == "*":
            keyword_only = True
        else:
            declared, equals, default = part.partition("=")
            kind, _, name = declared.strip().rpartition(" ")
            arguments.append(Argument(name, kind, _literal(default) if equals else REQUIRED, keyword_only))
    return Schema(found[1], found[2], found[3] or "", tuple(arguments))


def _comma_parts(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in "([") - (char in ")]")
        if char == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [p.strip() for p in [*parts, text[start:]] if p.strip()]


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text.strip()


def encode(schema: str, arguments: Mapping[str, Any], outputs: Sequence[gs.Tensor], *, name: str) -> gs.Node:
    """A torch node.

    Args:
        schema: the operator's full schema.
        arguments: schema argument -> literal, `gs.Tensor` or a list of these.
        outputs: the node's output variables, with their types.
        name: the node's name.
    """
    inputs: list[gs.Tensor] = []
    encoded = {key: _encode(value, inputs) for key, value in arguments.items()}
    parsed = parse_schema(schema)
    attributes = {"schema": schema, "arguments": json.dumps(encoded)}
    return gs.Node(parsed.operator, name, attributes, inputs, list(outputs), PREFIX + parsed.namespace)


def _encode(value: Any, inputs: list[gs.Tensor]) -> Any:
    if isinstance(value, gs.Tensor):
        inputs.append(value)
        return {"input": len(inputs) - 1}
    return [_encode(v, inputs) for v in value] if isinstance(value, (list, tuple)) else value


def is_torch(node: gs.Node | Node) -> bool:
    """Whether the node is an operator of PyTorch's."""
    return (node.domain or "").startswith(PREFIX)


def decode(node: Node) -> Call:
    """Read a torch node back.

    Raises:
        RewriteError: when the node is not as `encode` makes it.
    """
    given, inputs = node.given, node.inputs
    try:
        arguments = json.loads(given["arguments"])
        return Call(parse_schema(given["schema"]), {k: _decode(v, inputs) for k, v in arguments.items()})
    except (KeyError, IndexError, ValueError) as error:
        raise RewriteError(f"not a well-formed torch node: {error!r}", node=node.name) from error


def seen_shapes(node: Node) -> dict[Value, tuple[int, ...]]:
    """The shapes that a torch node's inputs had in a run of the model, which its maker may tell in `seen`."""
    shapes = json.loads(node.given.get("seen", "[]"))
    return {value: tuple(shape) for value, shape in zip(node.inputs, shapes, strict=False) if value and shape}


def _decode(value: Any, inputs: list[Value | None]) -> Any:
    if isinstance(value, dict) and "input" in value:
        return inputs[value["input"]]
    return [_decode(v, inputs) for v in value] if isinstance(value, list) else value
