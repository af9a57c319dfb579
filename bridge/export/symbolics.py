"""What stands around the exporter's symbolic functions: nodes keep their identity, no operator ends the export."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from bridge import torch_private as tp
from bridge.export.numbers import number_symbolic
from bridge.frontend.facts import Facts
from bridge.frontend.provenance import TAG

_LOG = logging.getLogger("bridge.export")
TYPES = "types"
"""An attribute of nodes that stand for operators, as long as they are in the exporter's hands."""
_WRITE = "aten::index_put"
_ARITHMETIC = ("aten::add", "aten::sub", "aten::mul", "aten::div")
_VIEWS = ("aten::slice", "aten::select")  # the exporter writes into what they are views of
_DTYPES = dict(enumerate([
    "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "complex32", "complex64", "complex128",
    "bool", "qint8", "quint8", "qint32", "bfloat16",
]))  # fmt: skip


class Symbolics:
    """The seam around the export of one function.

    Args:
        nodes: the original nodes by identity: by the time of export the exporter has dropped schemas and types.
        facts: what is known of their values.
        opset: of the ONNX operators.
        left: identities that are exported as the operator itself, because the exporter's own way gives wrong numbers.
    """

    def __init__(self, nodes: dict[int, tp.Node], facts: Facts, opset: int, left: Callable[[tp.Node], bool]) -> None:
        self.nodes, self.facts, self.opset, self.left = nodes, facts, opset, left
        self.last: int | None = None
        self.reasons: dict[int, str] = {}
        self._writes = [identity for identity, node in nodes.items() if node.kind().rstrip("_") == _WRITE]
        self._remade = [identity for identity, node in nodes.items() if _is_made_anew(node)]

    def __call__(self, symbolic: Callable[[], Any], arguments: tuple[Any, ...]) -> Any:
        node, inputs, new_nodes = arguments[2], arguments[3], arguments[6]
        lost = self._next_write() if node.kind().rstrip("_") == _WRITE else self._next_remade(node)
        identity = node.i(TAG) if node.hasAttribute(TAG) else lost
        if identity is not None:
            tp.remove_attributes([node], TAG)
            self.last = identity
        original = self.nodes.get(identity) if identity is not None else None
        known = original is not None and original.kind().rstrip("_") == node.kind().rstrip("_")
        if known and original is not None:
            self._give_types(inputs, original.inputs())
        result = self._run(symbolic, arguments, identity, original if known else None, inputs)
        if identity is not None:
            for new in new_nodes:
                if not new.hasAttribute(TAG) and new.kind() != "prim::Constant":  # a None with a tag is no None
                    new.i_(TAG, identity)
            if known and original is not None:
                self._give_types(result if isinstance(result, (list, tuple)) else [result], original.outputs())
        return result

    def _next_write(self) -> int | None:
        """The exporter makes index_put anew, in order and without the tag; what it writes to may be another tensor."""
        identity = self._writes.pop(0) if self._writes else None
        if identity is None or next(iter(self.nodes[identity].inputs())).node().kind() in _VIEWS:
            return None
        return identity

    def _next_remade(self, node: tp.Node) -> int | None:
        """The exporter makes arithmetic with a constant number anew, in order and on the same line, without the tag."""
        for identity in () if node.hasAttribute(TAG) else self._remade:
            original = self.nodes[identity]
            if original.kind() == node.kind() and str(original.sourceRange()) == str(node.sourceRange()):
                self._remade.remove(identity)
                return identity
        return None

    def _run(
        self,
        symbolic: Callable[[], Any],
        arguments: tuple[Any, ...],
        identity: int | None,
        original: tp.Node | None,
        inputs: Any,
    ) -> Any:
        if original is not None and self.left(original):
            self.reasons[original_identity(identity)] = "the exporter's translation gives wrong numbers"
            return self._itself(arguments, original, inputs)
        number = number_symbolic(original) if original is not None else None
        if number is not None and original is not None:
            return number(tp.graph_context(arguments, self.opset), original, inputs)
        try:
            made = symbolic()
            if original is not None and tp.schema(original) is not None:
                self._check_shapes(made, original)
            return made
        except Exception as error:
            if original is None or tp.schema(original) is None:
                raise
            message = str(error).strip().splitlines()
            self.reasons[original_identity(identity)] = message[0] if message else type(error).__name__
            _LOG.debug("%s has no translation to ONNX: %s", original.kind(), error)
            return self._itself(arguments, original, inputs)

    def _check_shapes(self, result: Any, original: tp.Node) -> None:
        """Raises ValueError when a translation gives another shape than PyTorch."""
        values = result if isinstance(result, (list, tuple)) else [result]
        for value, output in zip(values, original.outputs(), strict=False):
            sizes = self.facts.sizes(output) if output.type().kind() == "TensorType" else None
            if sizes is None or not tp.is_value(value) or value.type().kind() != "TensorType":
                continue
            made = tp.made_sizes(value)
            if made is not None and not _agree(made, sizes):
                raise ValueError(f"the exporter's translation gives the shape {made}, not {sizes}")

    def _itself(self, arguments: tuple[Any, ...], original: tp.Node, inputs: Any) -> Any:
        """A node that stands for the operator, with its schema and all of its arguments."""
        context = tp.graph_context(arguments, self.opset)
        schema = tp.schema(original)
        assert schema is not None
        operands: list[tp.Value] = []
        read: list[tp.Value] = []
        encoded = {
            argument.name: self._encode(argument, value, exported, operands, read)
            for argument, value, exported in zip(schema.arguments, original.inputs(), inputs, strict=True)
        }
        namespace, _, name = schema.name.partition("::")
        kind = f"{name}.{schema.overload_name}" if schema.overload_name else name
        known = {"inputs": self._known(read), "outputs": self._known(original.outputs())}
        attributes = {
            "schema_s": original.schema(),
            "arguments_s": json.dumps(encoded),
            f"{TYPES}_s": json.dumps(known),
            "seen_s": json.dumps([seen.shape if (seen := self.facts.tensor(value)) else None for value in read]),
        }
        count = self._count(original)
        results = context.op(f"torch.{namespace}::{kind}", *operands, outputs=count, **attributes)
        if original.outputsSize() == 1 and original.output().type().kind() == "ListType":
            return context.op("prim::ListConstruct", *(results if isinstance(results, (list, tuple)) else [results]))
        return results

    def _count(self, node: tp.Node) -> int:
        if node.outputsSize() == 1 and node.output().type().kind() == "ListType":
            unpacks = [use.user for use in node.output().uses() if use.user.kind() == "prim::ListUnpack"]
            if not unpacks:
                raise NotImplementedError(f"{node.kind()} gives a list whose length is not known")
            return int(unpacks[0].outputsSize())
        return int(node.outputsSize())

    def _known(self, values: Iterable[tp.Value]) -> list[tuple[str, tuple[int | None, ...]] | None]:
        """Dtypes and dimensions, which the exporter does not write."""
        found = [(self.facts.known_kind(value), self.facts.sizes(value)) for value in values]
        return [
            (str(seen.dtype).removeprefix("torch."), dims) if seen is not None and dims is not None else None
            for seen, dims in found
        ]

    def _encode(
        self, argument: Any, value: tp.Value, exported: tp.Value, operands: list[tp.Value], read: list[tp.Value]
    ) -> Any:
        if tp.is_constant(value):
            held = tp.constant_value(value)
            if not isinstance(held, torch.Tensor) and not _holds_tensors(held):
                return _literal(held, argument)
        if value.type().kind() == "NoneType":
            return None
        if value.node().kind() == "prim::ListConstruct":
            parts = list(exported.node().inputs()) if exported.node().kind() == "prim::ListConstruct" else []
            originals = list(value.node().inputs())
            if len(parts) == len(originals):
                return [self._encode(argument, o, p, operands, read) for o, p in zip(originals, parts, strict=True)]
        self._give_type(exported, value)
        operands.append(exported)
        read.append(value)
        return {"input": len(operands) - 1}

    def _give_types(self, values: Sequence[Any], originals: Iterable[tp.Value]) -> None:
        """Gives observed dtypes and ranks to values whose type the exporter lost; without a rank, it guesses."""
        originals = list(originals)
        if len(values) != len(originals):
            return
        for value, original in zip(values, originals, strict=True):
            self._give_type(value, original)
            if value is not None and {value.node().kind(), original.node().kind()} == {"prim::ListConstruct"}:
                self._give_types(list(value.node().inputs()), original.node().inputs())

    def _give_type(self, value: Any, original: tp.Value) -> None:
        tensor, sizes = self.facts.known_kind(original), self.facts.sizes(original)
        if value is None or tensor is None or sizes is None or original.type().kind() != "TensorType":
            return
        made = tp.made_sizes(value) if tp.has_rank(value) else (None,) * len(sizes)
        if made is None or len(made) != len(sizes):
            return
        known = [size if other is None else other for size, other in zip(sizes, made, strict=True)]
        if not tp.has_rank(value) or known != list(made):
            value.setType(tp.tensor_type(tensor.dtype, known))


def _is_made_anew(node: tp.Node) -> bool:
    """Whether an operand is a constant tensor without dimensions, which torch.onnx replaces by a number."""
    if node.kind() not in _ARITHMETIC or node.inputsSize() < 2:
        return False
    other = list(node.inputs())[1]
    if not tp.is_constant(other) or other.type().kind() != "TensorType":
        return False
    value = tp.constant_value(other)  # a number where Python's own was traced
    return not isinstance(value, torch.Tensor) or value.dim() == 0


def _agree(made: Sequence[int | None], sizes: Sequence[int | None]) -> bool:
    """Whether two shapes may be the same."""
    return len(made) == len(sizes) and all(None in pair or pair[0] == pair[1] for pair in zip(made, sizes, strict=True))


def original_identity(identity: int | None) -> int:
    assert identity is not None
    return identity


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(item, torch.Tensor) for item in value)


def _literal(value: Any, argument: Any) -> Any:
    kind = str(argument.type.annotation_str) if hasattr(argument.type, "annotation_str") else str(argument.type)
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and argument.name in ("dtype", "out_dtype")
        and "int" in kind
    ):
        return {"dtype": _DTYPES.get(value, str(value))}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, (list, tuple)):
        return [_literal(item, argument) for item in value]
    return value
