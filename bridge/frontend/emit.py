"""FX nodes of an exported program, one by one, as TorchScript nodes: nothing is traced, so sizes stay symbolic."""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import fx

from bridge import torch_private as tp
from bridge.errors import ExportError, UnsupportedOperatorError
from bridge.frontend.provenance import ORIGIN, Origin

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')
_TORCH = torch.__file__.rsplit("/", 1)[0] + "/"
_MEMORY_FORMATS = {
    torch.contiguous_format: 0, torch.preserve_format: 1, torch.channels_last: 2, torch.channels_last_3d: 3,
}  # fmt: skip
_LONGEST_POWER = 8
_NO_LIMIT = 2**63 - 1

_COMPARISONS: dict[Any, str] = {
    operator.eq: "aten::eq", operator.ne: "aten::ne", operator.lt: "aten::lt", operator.le: "aten::le",
    operator.gt: "aten::gt", operator.ge: "aten::ge", operator.not_: "aten::__not__", torch.sym_not: "aten::__not__",
}  # fmt: skip
_NUMBERS: dict[Any, str] = {
    operator.add: "aten::add", operator.sub: "aten::sub", operator.mul: "aten::mul", operator.neg: "aten::neg",
    operator.floordiv: "aten::floordiv", operator.mod: "aten::remainder",
    torch.sym_max: "prim::max", torch.sym_min: "prim::min", operator.abs: "prim::abs",
    operator.lshift: "aten::__lshift__", operator.rshift: "aten::__rshift__",
}  # fmt: skip
_BITS: dict[Any, str] = {
    operator.and_: "aten::__and__", operator.or_: "aten::__or__", operator.xor: "aten::__xor__",
}  # fmt: skip
_TO_FLOAT: dict[Any, str] = {operator.truediv: "aten::div", torch.sym_float: "aten::Float"}
_TO_INT: dict[Any, str] = {
    math.ceil: "aten::ceil", math.floor: "aten::floor", math.trunc: "aten::Int", round: "aten::round",
    torch.sym_int: "aten::Int",
}  # fmt: skip

_SIZES = {
    "aten::sym_size": "aten::size", "aten::sym_numel": "aten::numel", "aten::sym_stride": "aten::stride",
    "aten::sym_storage_offset": "aten::storage_offset",
}  # fmt: skip
_ALIASES = {"aten::detach", "aten::detach_", "aten::alias", "aten::lift", "aten::lift_fresh"}
_ASSERTIONS = {
    "aten::_assert_scalar", "aten::_assert_async", "aten::_assert_tensor_metadata", "aten::sym_constrain_range",
    "aten::sym_constrain_range_for_size", "aten::_functional_assert_async", "aten::_functional_sym_constrain_range",
}  # fmt: skip
_INLINED = {
    "wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4, "invoke_subgraph": 0, "wrap": 0, "strict_mode": 0,
    "tag_activation_checkpoint": 0, "wrap_activation_checkpoint": 0,
}  # fmt: skip
"""Higher-order operators that only call a graph, by the position of that graph among their arguments."""


class Emitter:
    """Writes FX nodes into a TorchScript graph at its insertion point.

    Args:
        graph: the graph of a method that has never run. Every node gets its origin as the attribute ``ORIGIN``.
    """

    def __init__(self, graph: tp.Graph) -> None:
        self.graph: Any = graph
        self.current = Origin("")
        self.unpacked: dict[str, list[tp.Value]] = {}

    def emit(self, module: fx.GraphModule, arguments: Sequence[Any]) -> list[Any]:
        """Emits a whole FX graph; arguments and results are TorchScript values, lists of them, or Python constants."""
        values: dict[fx.Node, Any] = {}
        outer, self.unpacked = self.unpacked, {}
        given, results = iter(arguments), []
        for node in module.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(given)
            elif node.op == "get_attr":
                values[node] = operator.attrgetter(str(node.target))(module)
            elif node.op == "call_function":
                self.current = origin_of(node)
                values[node] = self._call(node, *fx.map_arg((node.args, dict(node.kwargs)), values.__getitem__))
            elif node.op == "output":
                result = fx.map_arg(node.args[0], values.__getitem__)
                results = list(result) if isinstance(result, (list, tuple)) else [result]
        self.unpacked = outer
        return results

    def value(self, given: Any) -> tp.Value:
        """A result as a TorchScript value: Python constants become such."""
        return self._value(given)

    def tuple(self, values: Sequence[tp.Value]) -> tp.Value:
        """The values as one tuple."""
        return next(
            iter(self._insert("prim::TupleConstruct", values, [tp.tuple_type([v.type() for v in values])]).outputs())
        )

    def write(self, target: tp.Value, source: tp.Value) -> None:
        """Writes ``source`` into the tensor ``target``."""
        self._add("aten::copy_", [target, source, False])

    # Single nodes

    def _call(self, node: fx.Node, args: Any, kwargs: dict[str, Any]) -> Any:
        target = node.target
        if isinstance(target, torch._ops.OpOverload):
            return self._operator(node, target, args, kwargs)
        if isinstance(target, torch._ops.HigherOrderOperator):
            return self._higher_order(node, str(target), args)
        if target is operator.getitem:
            return self._item(args[0], args[1], node)
        return self._python(target, args)

    def _operator(self, node: fx.Node, target: torch._ops.OpOverload, args: Any, kwargs: dict[str, Any]) -> Any:
        name = target._schema.name
        if name in _ASSERTIONS:
            return None
        if name in _ALIASES:
            return args[0]
        if name == "aten::lift_fresh_copy":
            return self._add("aten::clone", [args[0], None])
        if name in ("aten::item", "aten::_local_scalar_dense"):
            return self._scalar_of(args[0], node)
        if name in _SIZES:
            return self._add(_SIZES[name], list(args), tp.int_type())
        if name == "aten::_native_batch_norm_legit_no_training" and _reads_first_alone(node):
            return [self._add("aten::batch_norm", [*args[:5], False, *args[5:], False])]
        schema = target._schema
        inputs = [
            self._value(args[i] if i < len(args) else kwargs.get(argument.name, argument.default_value), argument.type)
            for i, argument in enumerate(schema.arguments)
        ]
        return self._checked(name, inputs, schema)

    def _checked(self, name: str, inputs: list[tp.Value], schema: Any) -> Any:
        """Emits an operator that TorchScript knows for these types; where it knows none, numbers become tensors."""
        made = self._insert(name, inputs, [result.type for result in schema.returns])
        if not tp.has_schema(made):
            made.destroy()
            inputs = [
                self._scalar_tensor(value) if str(argument.type) == "Tensor" else value
                for value, argument in zip(inputs, schema.arguments, strict=True)
            ]
            made = self._insert(name, inputs, [result.type for result in schema.returns])
        if not tp.has_schema(made):
            raise UnsupportedOperatorError(
                f"{name}.{schema.overload_name} cannot be written in TorchScript",
                where=str(self.current),
                why=f"no overload takes ({', '.join(str(value.type()) for value in inputs)})",
                hint="decompose it first: program.run_decompositions()",
            )
        results = list(made.outputs())
        return results[0] if len(results) == 1 else results or None

    def _scalar_tensor(self, value: tp.Value) -> tp.Value:
        if str(value.type()) not in ("int", "float", "bool"):
            return value
        return self._add("aten::scalar_tensor", [value, None, None, None, None])

    def _scalar_of(self, tensor: Any, node: fx.Node) -> tp.Value:
        kind, type_ = {
            torch.SymFloat: ("aten::Float", tp.float_type()),
            torch.SymBool: ("aten::Bool", tp.bool_type()),
        }.get(type(node.meta.get("val")), ("aten::Int", tp.int_type()))
        return self._add(kind, [tensor], type_)

    def _item(self, source: Any, index: int, node: fx.Node) -> Any:
        if isinstance(source, (list, tuple)):
            return source[index]
        name = source.debugName()
        if name not in self.unpacked:
            origin = node.args[0]
            count = len(origin.meta["val"]) if isinstance(origin, fx.Node) else index + 1
            element = tp.element_type(source.type())
            self.unpacked[name] = list(self._insert("prim::ListUnpack", [source], [element] * count).outputs())
        return self.unpacked[name][index]

    def _python(self, target: Any, args: Sequence[Any]) -> Any:
        if not any(tp.is_value(arg) for arg in args):
            return target(*args)
        if target in _COMPARISONS:
            return self._add(_COMPARISONS[target], list(args), tp.bool_type())
        if target in _NUMBERS:
            floating = any(str(self._value(arg).type()) == "float" for arg in args)
            return self._add(_NUMBERS[target], list(args), tp.float_type() if floating else tp.int_type())
        if target in _BITS:
            return self._add(_BITS[target], list(args), self._value(args[0]).type())
        if target in _TO_FLOAT:
            return self._add(_TO_FLOAT[target], list(args), tp.float_type())
        if target in _TO_INT:
            return self._to_int(_TO_INT[target], args[0])
        if target is operator.pow:
            return self._power(*args)
        if target is torch.sym_ite:
            return self._branch(args[0], [lambda: [args[1]], lambda: [args[2]]])[0]
        raise UnsupportedOperatorError(f"{target} on sizes cannot be written in TorchScript", where=str(self.current))

    def _to_int(self, kind: str, number: tp.Value) -> tp.Value:
        if str(number.type()) == "int":
            return number
        if kind == "aten::round":
            return self._add("aten::Int", [self._add(kind, [number], tp.float_type())], tp.int_type())
        return self._add(kind, [number], tp.int_type())

    def _power(self, base: Any, exponent: Any) -> tp.Value:
        is_int = tp.is_value(base) and str(base.type()) == "int"
        if is_int and isinstance(exponent, int) and 1 <= exponent <= _LONGEST_POWER:
            result: tp.Value = base
            for _ in range(exponent - 1):
                result = self._add("aten::mul", [result, base], tp.int_type())
            return result
        return self._add("aten::pow", [base, exponent], tp.float_type())

    # Graphs inside operators

    def _higher_order(self, node: fx.Node, name: str, args: Sequence[Any]) -> Any:
        if name == "cond":
            predicate, then, otherwise, operands = args
            branches = [lambda: self.emit(then, operands), lambda: self.emit(otherwise, operands)]
            return self._branch(predicate, branches)
        if name == "while_loop":
            return self._while(*args)
        if name in _INLINED:
            if name == "wrap_with_autocast" and args[2]:
                raise ExportError(
                    "the exported program runs a part under autocast, which TorchScript nodes cannot say",
                    where=str(self.current),
                    hint="call program.run_decompositions() first, or leave autocast out and give a precision",
                )
            position = next(i for i, arg in enumerate(args) if isinstance(arg, fx.GraphModule))
            return self.emit(args[position], [arg for arg in args[position + 1 :] if not isinstance(arg, str)])
        raise UnsupportedOperatorError(f"the higher-order operator {name} is not supported", where=str(self.current))

    def _branch(self, predicate: Any, branches: Sequence[Callable[[], list[Any]]]) -> list[Any]:
        if isinstance(predicate, bool):
            return branches[0 if predicate else 1]()
        conditional = self._insert("prim::If", [self._as_bool(predicate)], [])
        for branch in branches:
            block: Any = conditional.addBlock()
            with self.graph.insert_point_guard(block):
                results = [self._value(result) for result in branch()]
            for result in results:
                block.registerOutput(result)
        return [_typed(conditional.addOutput(), result.type()) for result in results]

    def _while(self, condition: fx.GraphModule, body: fx.GraphModule, carried: Any, constant: Any = ()) -> list[Any]:
        def goes_on(state: Sequence[Any]) -> tp.Value:
            return self._as_bool(self.emit(condition, [*state, *constant])[0])

        initial = [self._value(value) for value in carried]
        loop = self._insert("prim::Loop", [self._value(_NO_LIMIT), goes_on(initial), *initial], [])
        block: Any = loop.addBlock()
        _typed(block.addInputToBlock(), tp.int_type())
        state = [_typed(block.addInputToBlock(), value.type()) for value in initial]
        with self.graph.insert_point_guard(block):
            following = [self._value(value) for value in self.emit(body, [*state, *constant])]
            again = goes_on(following)
        for value in (again, *following):
            block.registerOutput(value)
        return [_typed(loop.addOutput(), value.type()) for value in initial]

    def _as_bool(self, value: Any) -> tp.Value:
        value = self._value(value)
        return value if str(value.type()) == "bool" else self._add("aten::Bool", [value], tp.bool_type())

    # Values

    def _add(self, kind: str, inputs: Sequence[Any], type_: Any = None) -> tp.Value:
        node = self._insert(kind, [self._value(value) for value in inputs], [type_ or tp.any_tensor_type()])
        return next(iter(node.outputs()))

    def _insert(self, kind: str, inputs: Sequence[tp.Value], types: Sequence[Any]) -> tp.Node:
        node: tp.Node = self.graph.insertNode(self.graph.create(kind, list(inputs), len(types)))
        for output, type_ in zip(node.outputs(), types, strict=True):
            output.setType(type_)
        node.s_(ORIGIN, json.dumps(asdict(replace(self.current, operator=kind))))
        return node

    def _value(self, given: Any, type_: Any = None) -> tp.Value:
        """A TorchScript value for an argument: a value already, or a constant or list of the schema's type."""
        if tp.is_value(given):
            return given
        if isinstance(given, torch.memory_format):
            return self._constant(_MEMORY_FORMATS[given])
        wanted = tp.without_optional(type_) if type_ is not None else None
        element = tp.element_type(wanted) if wanted is not None else None
        if element is not None and given is not None:
            return self._list(list(given) if isinstance(given, (list, tuple)) else [given], wanted, element)
        if str(wanted) == "float" and isinstance(given, int):
            given = float(given)
        elif isinstance(given, bool) and str(wanted) in ("number", "Scalar", "Tensor", "int"):
            given = int(given)
        return self._constant(given)

    def _constant(self, given: Any) -> tp.Value:
        value: tp.Value = self.graph.insertConstant(given)
        return value

    def _list(self, items: list[Any], type_: Any, element: Any) -> tp.Value:
        plain = {"int": int, "float": float, "bool": bool}.get(str(element))
        if items and plain is not None and not any(tp.is_value(item) for item in items):
            return self._constant([plain(item) for item in items])
        values = [self._value(item, element) for item in items]
        return next(iter(self._insert("prim::ListConstruct", values, [type_]).outputs()))


def _typed(value: tp.Value, type_: Any) -> tp.Value:
    value.setType(type_)
    return value


def origin_of(node: fx.Node) -> Origin:
    """Operator, module and the user's line of an FX node."""
    stack = [entry for entry in (node.meta.get("nn_module_stack") or {}).values() if not entry[0].startswith("_empty")]
    path, kind = stack[-1] if stack else ("", "")
    kind = kind if isinstance(kind, str) else getattr(kind, "__qualname__", "")
    path = path.removeprefix("L['self']").lstrip(".")
    target = node.target
    name = (
        target._schema.name if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))
    )
    return Origin(name, path, kind.rsplit(".", 1)[-1], _source(node.meta.get("stack_trace") or ""))


def _source(stack_trace: str) -> str:
    frames = [match for match in _FRAME.finditer(stack_trace) if _is_users(match["file"])]
    if not frames:
        return ""
    return f"{frames[-1]['file'].rsplit('/', 1)[-1]}:{frames[-1]['line']} in {frames[-1]['function']}"


def _is_users(file: str) -> bool:
    return not file.startswith(("<", _TORCH, "torch/"))


def _reads_first_alone(node: fx.Node) -> bool:
    """Whether of an operator's results only the first is used."""
    readers = [user for user in node.users if user.users or user.target is not operator.getitem]
    return all(user.target is operator.getitem and user.args[1] == 0 for user in readers)
