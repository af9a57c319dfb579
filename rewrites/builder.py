"""The op builder given to `rewrite` functions: `op.MatMul(x, y)` adds a node and knows its type and shape at once."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, shape_inference
from onnx_graphsurgeon.ir.tensor import LazyValues

from rewrites.body_types import body_inputs, body_outputs
from rewrites.errors import RewriteError
from rewrites.graph import Editor, Value, bodies, constant_values, plain
from rewrites.infer import SMALL, Typed, infer, numpy_type
from rewrites.protos import node_proto
from rewrites.schemas import output_count, schema_of
from rewrites.spelling import spelled
from rewrites.symbols import refine

_FREE = {"Pow": ("T", "T1")}  # exponents take the base's type, though the schema lets them differ


class Builder:
    """Adds nodes to one graph; `op.X(...)` for any operator X.

    Inputs are values, None for an optional input left out, numpy arrays (taken as they are), or Python numbers and
    lists (given the type that the operator's schema asks for beside the other inputs). Attributes are keywords; bodies
    are functions: `op.If(c, then_branch=lambda op: ..., else_branch=lambda op: ...)`, `op.Loop(n, None, x,
    body=lambda op, i, go, x: (go, x, y))`. An operator with several outputs gives a tuple; `_outputs=2` asks for more
    than its schema's least number, `_domain=` names another domain, and `_types=[(dtype, dims)]` gives the types of
    an operator that ONNX does not define.

    Args:
        editor: the editor of the graph.
        graph: the graph or body that the nodes go into.
        prefix: what the names begin with, `<root's name>/<rule's short name>`.
        target: the name of the target.
    """

    def __init__(self, editor: Editor, graph: gs.Graph, prefix: str, target: str = "any") -> None:
        self._editor, self._graph, self._prefix, self.target = editor, graph, prefix, target
        self.created: list[gs.Node] = []

    @property
    def opset(self) -> int:
        """Version of the default domain of the graph."""
        return self._editor.opset

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_") or not op_type[0].isupper():
            raise AttributeError(f"{op_type}: operators begin with a capital letter")

        def add(*inputs: Any, **attributes: Any) -> Any:
            return self.call(op_type, *inputs, **attributes)

        return add

    def one_of(self, *op_types: str) -> Callable[..., Any]:
        """In a pattern: any of these operators. Here, as in an example: the first."""
        return self.__getattr__(op_types[0])

    def any_of(self, *values: Any) -> Any:
        """In a pattern: any of these values. Here, as in an example: the first."""
        return values[0]

    def constant(self, value: Any, dtype: Any = None) -> Value:
        """A constant. Python ints become int64 and floats float32 unless `dtype` says otherwise."""
        array = value if isinstance(value, np.ndarray) else np.array(value, dtype or _default_dtype(value))
        array = array.astype(dtype) if dtype is not None and array.dtype != np.dtype(dtype) else array
        return Value(gs.Constant(self._editor.unique(f"{self._prefix}/const"), array), self._editor)

    def call(
        self,
        op_type: str,
        *inputs: Any,
        _domain: str = "",
        _outputs: int | None = None,
        _types: Sequence[Typed] | None = None,
        _rest: bool = False,
        **attributes: Any,
    ) -> Any:
        """Add a node of any operator; `op.X(...)` is `op.call("X", ...)`. `_rest` has a meaning in patterns only."""
        inputs, attributes = spelled(op_type, _domain, self.opset, inputs, attributes)
        values = self._promote(op_type, _domain, inputs)
        kept = {name: _raw(value) for name, value in attributes.items() if value is not None}
        body_types = self._bodies(op_type, kept, values)
        tensors = [v.tensor if v is not None else gs.Variable.empty() for v in values]
        while tensors and not tensors[-1].name:
            tensors.pop()
        count = _outputs or (len(body_types) if body_types else output_count(op_type, _domain, self.opset, kept))
        name = self._editor.unique(f"{self._prefix}/{op_type}")
        outputs = [gs.Variable(self._editor.unique(f"{name}:{i}" if count > 1 else f"{name}:0")) for i in range(count)]
        node = gs.Node(op_type, name, kept, tensors, outputs, _domain or None)
        self._editor.insert(node, self._graph)
        self.created.append(node)
        types = list(_types or body_types or self.infer(node, values))
        for tensor, (dtype, dims) in zip(outputs, types, strict=False):
            tensor.dtype, tensor.shape = dtype, None if dims is None else list(dims)
        results = tuple(Value(t, self._editor) for t in outputs)
        return results[0] if count == 1 else results

    def undo(self) -> None:
        """Take back every node that was added."""
        for node in self.created:
            self._editor.remove(node)
        self.created.clear()

    def splice(self, model: onnx.ModelProto, inputs: Sequence[Value]) -> tuple[Value, ...]:
        """Put a copy of a whole model here, its inputs in their order being `inputs`; what its outputs become."""
        graph = gs.import_onnx(model)
        if len(graph.inputs) != len(inputs):
            raise RewriteError(f"the spliced model has {len(graph.inputs)} inputs for {len(inputs)} values")
        known = {id(t): v for t, v in zip(graph.inputs, inputs, strict=False)}
        for node in graph.nodes:
            self._splice_node(node, known)
        return tuple(self._spliced(t, known) for t in graph.outputs)

    def _spliced(self, tensor: gs.Tensor, known: dict[int, Value]) -> Value:
        if id(tensor) not in known and isinstance(tensor, gs.Constant):
            known[id(tensor)] = self.constant(np.asarray(tensor.values))
        return known[id(tensor)]

    def _splice_node(self, node: gs.Node, known: dict[int, Value]) -> None:
        held = constant_values(node) if node.op == "Constant" else None
        if held is not None:
            known[id(node.outputs[0])] = self.constant(
                np.asarray(held.load() if isinstance(held, LazyValues) else held)
            )
            return
        inner = bodies(node)
        for body in inner:
            self._rebind(body, known)
        typed = (
            [(numpy_type(t.dtype), t.shape and tuple(None for _ in t.shape)) for t in node.outputs] if inner else None
        )
        attributes = {name: plain(value) for name, value in node.attrs.items()}
        inputs = [self._spliced(t, known) if t.name else None for t in node.inputs]
        made = self.call(
            node.op, *inputs, _domain=node.domain or "", _outputs=len(node.outputs), _types=typed, **attributes
        )
        for tensor, value in zip(node.outputs, made if isinstance(made, tuple) else (made,), strict=False):
            folded = value.constant if value.known_dtype is not None else None
            known[id(tensor)] = value if folded is None else self.constant(folded)

    def _rebind(self, body: gs.Graph, known: dict[int, Value]) -> None:
        """Let a spliced body read the values of this graph, under names of its own."""
        for tensor in body.inputs:
            tensor.name = self._editor.unique(f"{self._prefix}/{tensor.name}")
        for node in body.nodes:
            node.name = self._editor.unique(f"{self._prefix}/{node.op}")
            for inner in bodies(node):
                self._rebind(inner, known)
            node.inputs = [self._outer(t, known) for t in node.inputs]
            for tensor in node.outputs:
                tensor.name = self._editor.unique(f"{self._prefix}/{tensor.name}") if tensor.name else ""
        body.outputs = [self._body_output(t, body, known) for t in body.outputs]

    def _outer(self, tensor: gs.Tensor, known: dict[int, Value]) -> gs.Tensor:
        """What a spliced body reads: a value of this graph where it captures one."""
        if id(tensor) in known or isinstance(tensor, gs.Constant):
            return self._spliced(tensor, known).tensor
        return tensor

    def _body_output(self, tensor: gs.Tensor, body: gs.Graph, known: dict[int, Value]) -> gs.Tensor:
        """A body's output, which a node of the body must make, also where it is an outer value."""
        outer = self._outer(tensor, known)
        if outer is tensor and not any(tensor is t for t in body.inputs):
            return tensor
        made = gs.Variable(self._editor.unique(f"{outer.name}/inner"), outer.dtype, outer.shape)
        body.nodes.append(gs.Node("Identity", self._editor.unique(f"{self._prefix}/Identity"), {}, [outer], [made]))
        return made

    def _promote(self, op_type: str, domain: str, inputs: Sequence[Any]) -> list[Value | None]:
        schema = schema_of(op_type, domain, self.opset)
        formals = list(schema.inputs) if schema else []
        kinds = [_kind(formals, i, op_type) for i in range(len(inputs))]
        known = {
            k: v.known_dtype
            for k, v in zip(kinds, inputs, strict=False)
            if isinstance(v, Value) and k and v.known_dtype
        }
        known |= {
            k: v.dtype
            for k, v in zip(kinds, inputs, strict=False)
            if isinstance(v, np.ndarray) and k and k not in known
        }
        return [self._value(v, k, known) for v, k in zip(inputs, kinds, strict=False)]

    def _value(self, value: Any, kind: str, known: dict[str, Any]) -> Value | None:
        if value is None or isinstance(value, Value):
            return value
        if isinstance(value, (np.ndarray, np.generic)):
            return self.constant(np.asarray(value))
        if isinstance(value, (list, tuple)) and any(isinstance(v, Value) for v in value):
            raise TypeError("an input is one value; pack several with op.Concat, or pass them with *")
        concrete = re.fullmatch(r"tensor\((\w+)\)", kind)
        return self.constant(value, np.dtype(_onnx_name(concrete[1])) if concrete else known.get(kind))

    def infer(self, node: gs.Node, values: Sequence[Value | None]) -> list[Typed]:
        """The (dtype, dims) of each output of a node that reads these values; None where they are not known.

        Raises:
            RewriteError: the node is wrong for them.
        """
        inputs = []
        for value in values:
            if value is not None:
                small = value.dims is not None and value.dims.is_static() and value.dims.size <= SMALL
                array = value.constant if small else None
                inputs.append((value.name, (value.known_dtype, value.dims), array))
            else:
                inputs.append(("", (None, None), None))
        imports = [("", self.opset), *([(node.domain, 1)] if node.domain else [])]
        known = all(typed[0] is not None for name, typed, _ in inputs if name)
        if schema_of(node.op, node.domain or "", self.opset) is None or not known:
            return [(None, None)] * len(node.outputs)
        try:
            return refine(node, infer(node_proto(node, self.opset), inputs, imports), self._editor)
        except shape_inference.InferenceError as error:
            told = ", ".join(str(v) for v in values)
            raise RewriteError(f"op.{node.op}({told}) is not a valid node: {error}", node=node.name) from error

    def _bodies(self, op_type: str, attributes: dict[str, Any], values: Sequence[Value | None]) -> list[Typed]:
        """Build the bodies given as functions; the types of the node's outputs, when there are any."""
        results: list[Typed] = []
        for name, function in attributes.items():
            if callable(function) and not isinstance(function, type):
                graph, outputs = self._body(name, function, body_inputs(op_type, attributes, values))
                attributes[name] = graph
                results = body_outputs(op_type, attributes, outputs, values)
        return results

    def _body(self, name: str, function: Callable[..., Any], inputs: list[Typed]) -> tuple[gs.Graph, list[Value]]:
        graph = gs.Graph(name=self._editor.unique(f"{self._prefix}/{name}"), opset=self.opset)
        names = list(inspect.signature(function).parameters)[1:]
        for label, (dtype, dims) in zip([*names, *["carried"] * len(inputs)], inputs, strict=False):
            shape = None if dims is None else list(dims)
            graph.inputs.append(gs.Variable(self._editor.unique(f"{graph.name}/{label}"), dtype, shape))
        inner = Builder(self._editor, graph, graph.name, self.target)
        found = function(inner, *(Value(t, self._editor) for t in graph.inputs))
        outputs = [inner._own(v) for v in (found if isinstance(found, (tuple, list)) else (found,))]
        graph.outputs = [v.tensor for v in outputs]
        self.created += inner.created
        return graph, outputs

    def _own(self, value: Any) -> Value:
        """A body's output must be made by a node of that body."""
        owned: Value = value if isinstance(value, Value) else self.constant(value)
        producer = self._editor.producer(owned.tensor)
        if producer is None or not any(producer is n for n in self.created):
            owned = self.call("Identity", owned)
        return owned


def _raw(attribute: Any) -> Any:
    """An attribute as graphsurgeon wants it."""
    if isinstance(attribute, np.ndarray):
        return gs.Constant("", attribute)
    if isinstance(attribute, (np.generic,)):
        return attribute.item()
    if isinstance(attribute, (np.dtype, type)):
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(attribute)))
    return [_raw(a) for a in attribute] if isinstance(attribute, (list, tuple)) else attribute


def _default_dtype(value: Any) -> Any:
    kind = np.asarray(value)
    if kind.size == 0 or kind.dtype.kind in "iu":
        return np.int64
    return np.float32 if kind.dtype.kind == "f" else kind.dtype


def _onnx_name(name: str) -> str:
    return {"float": "float32", "double": "float64", "string": "object"}.get(name, name)


def _kind(formals: list[Any], position: int, op_type: str) -> str:
    """The type constraint of an input; inputs with the same one share their type."""
    if not formals:
        return ""
    kind = str(formals[min(position, len(formals) - 1)].type_str)
    shared = _FREE.get(op_type)
    return shared[0] if shared and kind in shared else kind
