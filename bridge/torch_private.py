"""The only importer of PyTorch's private modules: TorchScript graphs and the TorchScript-to-ONNX exporter.

Everything here is a thin, named step. What the steps mean together stands in :mod:`bridge.frontend`,
:mod:`bridge.partition` and :mod:`bridge.export`.
"""

from __future__ import annotations

import functools
import itertools
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import _C
from torch.utils._python_dispatch import TorchDispatchMode

Graph = _C.Graph
Node = _C.Node
Value = _C.Value
Block = _C.Block

_EXPORTER = threading.RLock()
_NO_SCHEMA = "(no schema)"


# Modules -------------------------------------------------------------------------------------------------------------


def wrap(module: Any) -> torch.jit.ScriptModule:
    """The Python face of a C++ ScriptModule."""
    from torch.jit._recursive import wrap_cpp_module

    return wrap_cpp_module(module)


def clone(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """A module with graphs of its own, which can be edited, and with copies of the tensors."""
    with torch.no_grad():
        return wrap(_C._hack_do_not_use_clone_module_with_class(module._c, [], []))


def twin(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """As `clone`, but its parameters are in the very memory of the module's own."""
    with _Sharing(module.parameters()):
        return clone(module)


class DispatchMode(TorchDispatchMode):
    """A mode that no compiled code enters.

    PyTorch hides the others from dynamo, and imports all of it for that at the first call: two seconds and more.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class _Sharing(DispatchMode):
    """Copies of some tensors are these tensors."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._tensors = {id(tensor): tensor for tensor in tensors}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.clone.default and id(args[0]) in self._tensors:
            return args[0].detach()
        return func(*args, **(kwargs or {}))


def freeze(module: torch.jit.ScriptModule, methods: Sequence[str]) -> torch.jit.ScriptModule:
    """Inlines ``methods``, makes attributes that never change into constants, keeps parameters as attributes.

    Attributes that nothing reads any more are dropped; so freezing again after an edit is how weights are let go.
    """
    preserved = [name for name in methods if name != "forward"]
    return wrap(_C._freeze_module(module._c, preserved, True, True))


def has_method(module: torch.jit.ScriptModule, name: str) -> bool:
    return bool(module._c._has_method(name))


def method_names(module: torch.jit.ScriptModule) -> list[str]:
    return list(module._c._method_names())


def graph_of(module: torch.jit.ScriptModule, method: str = "forward") -> Graph:
    """The graph that ``method`` runs (the very object: an edit takes effect if the method never ran)."""
    return module._c._get_method(method).graph


def schema_of(module: torch.jit.ScriptModule, method: str = "forward") -> _C.FunctionSchema:
    return module._c._get_method(method).schema


def argument_names(module: torch.jit.ScriptModule, method: str = "forward") -> list[str]:
    """The method's arguments without ``self``; numbered where several have one name, as those of a trace may."""
    names: list[str] = []
    for argument in schema_of(module, method).arguments[1:]:
        name, count = argument.name, 1
        while name in names:
            count += 1
            name = f"{argument.name}_{count}"
        names.append(name)
    return names


def kept_methods(module: torch.jit.ScriptModule, method: str) -> list[str]:
    """``method`` and the other public methods, which stay as they are."""
    return [method, *(name for name in method_names(module) if name != method and not name.startswith("_"))]


def set_text(module: torch.jit.ScriptModule, name: str, text: str) -> None:
    """Gives a module a string attribute of its own, which is saved with it."""
    if module._c.hasattr(name):
        module._c.setattr(name, text)
    else:
        module._c._register_attribute(name, _C.StringType.get(), text)


_RUNNING_STATISTICS = {"aten::batch_norm", "aten::instance_norm", "aten::native_batch_norm", "aten::cudnn_batch_norm"}
"""In training they change a mean and a variance, which their schemas do not say."""

# Graphs --------------------------------------------------------------------------------------------------------------


def inputs_of(node: Node) -> list[Value]:
    """What a node reads. PyTorch's iterators end with a C++ exception each, which takes ten times as long as this."""
    return [node.inputsAt(place) for place in range(node.inputsSize())]


def outputs_of(node: Node) -> list[Value]:
    """What a node gives; see `inputs_of`."""
    return [node.outputsAt(place) for place in range(node.outputsSize())]


_WITHOUT_BLOCKS = {
    "prim::Constant", "prim::GetAttr", "prim::SetAttr", "prim::NumToTensor", "prim::Uninitialized", "prim::device",
    "prim::ListConstruct", "prim::ListUnpack", "prim::TupleConstruct", "prim::TupleUnpack", "prim::TupleIndex",
    "prim::DictConstruct", "prim::unchecked_cast", "prim::dtype", "prim::RaiseException", "onnx::Constant",
}  # fmt: skip


def blocks_of(node: Node) -> Sequence[Block]:
    """A node's own blocks; see `inputs_of`: most nodes are of a kind that has none."""
    kind = node.kind()
    return () if kind.startswith("aten::") or kind in _WITHOUT_BLOCKS else list(node.blocks())


def walk(block: Graph | Block) -> Iterator[Node]:
    """All nodes of a block in order, each before the nodes of its own blocks."""
    for node in list(block.nodes()):
        yield node
        for inner in blocks_of(node):
            yield from walk(inner)


def blocks(block: Graph | Block) -> Iterator[Graph | Block]:
    yield block
    for node in block.nodes():
        for inner in blocks_of(node):
            yield from blocks(inner)


def inside(node: Node) -> Iterator[Node]:
    """All nodes in a node's own blocks."""
    for block in blocks_of(node):
        yield from walk(block)


def written_to(node: Node) -> list[Value]:
    """The arguments that an operator changes in place."""
    text = node.schema()
    places = () if text == _NO_SCHEMA else _written_places(text)
    running = node.kind() in _RUNNING_STATISTICS
    if not places and not running:
        return []
    inputs = inputs_of(node)
    found = [inputs[place] for place in places if place < len(inputs)]
    if running and not (is_constant(inputs[5]) and not constant_value(inputs[5])):
        found += [value for value in inputs[3:5] if value.type().kind() != "NoneType"]
    return found


def reads(node: Node) -> Iterator[Value]:
    """Values that a node needs: its inputs, and what its blocks take from outside; there, each once."""
    own_blocks = blocks_of(node)
    if not own_blocks:
        yield from inputs_of(node)
        return
    own = {value.debugName() for block in own_blocks for value in values(block)}
    read = [*inputs_of(node), *(value for inner in inside(node) for value in inputs_of(inner))]
    read += [value for block in own_blocks for inner in blocks(block) for value in inner.outputs()]
    for value in read:
        if value.debugName() not in own:
            own.add(value.debugName())
            yield value


def results(node: Node) -> Iterator[Value]:
    """What a node gives, then all values in its blocks, in one fixed order."""
    yield from outputs_of(node)
    for block in blocks_of(node):
        yield from values(block)


def values(graph: Graph | Block) -> Iterator[Value]:
    """All values of a graph, those of inner blocks too, in one fixed order."""
    for block in blocks(graph):
        yield from block.inputs()
        for node in block.nodes():
            yield from outputs_of(node)


def propagate_shapes(graph: Graph) -> None:
    """Derives the types of values from those of the inputs, by PyTorch's symbolic shape functions."""
    try:
        _C._jit_pass_propagate_shapes_on_graph(graph)
    except RuntimeError:
        return  # what is derived so far stands


def symbolic_sizes(value: Value) -> tuple[int, ...]:
    """The dimensions in a tensor value's type: negative for those not known, equal for those known to be equal."""
    return tuple(value.type().symbolic_sizes() or ())


def inline(graph: Graph) -> None:
    _C._jit_pass_inline(graph)


def simplify(graph: Graph) -> None:
    """Constant propagation, peephole simplification, list idioms, common subexpressions and dead code."""
    _propagate_constants(graph)
    _C._jit_pass_peephole_list_idioms(graph, refine_list_len=False)
    _C._jit_pass_peephole(graph, True)
    _propagate_constants(graph)
    _C._jit_pass_cse(graph)
    _C._jit_pass_dce(graph)
    _narrow_constants(graph)


def _propagate_constants(graph: Graph) -> None:
    """In branches for tensors, where there is none, the pass makes None a constant tensor, and breaks at its use."""
    while True:
        try:
            _C._jit_pass_constant_propagation(graph)
            return
        except RuntimeError:
            if not _remove_absent_tensors(graph):
                raise


def _remove_absent_tensors(graph: Graph) -> bool:
    """Makes constants that are None and of a tensor's type, which no call ever reads, values of no content."""
    absent = [
        node
        for node in walk(graph)
        if node.kind() == "prim::Constant"
        and node.output().type().kind() == "TensorType"
        and not node.hasAttribute("value")
    ]
    for node in absent:
        made = graph.create("prim::Uninitialized", [], 1).insertBefore(node)
        made.output().setType(node.output().type())
        node.output().replaceAllUsesWith(made.output())
        node.destroy()
    return bool(absent)


def _narrow_constants(graph: Graph) -> None:
    """Constant propagation leaves constants of type ``int?``, which the interpreter refuses: types them anew."""
    for node in walk(graph):
        if node.kind() == "prim::Constant" and node.output().type().kind() == "OptionalType":
            node.output().replaceAllUsesWith(constant(graph, node.output().toIValue(), node))
    _C._jit_pass_dce(graph)


def remove_mutation(graph: Graph) -> None:
    """Replaces in-place operators by functional ones wherever that cannot be observed."""
    _C._jit_pass_remove_mutation(graph)


def remove_dead_code(graph: Graph) -> None:
    _C._jit_pass_dce(graph)


def unroll_constant_loops(graph: Graph) -> None:
    _C._jit_pass_constant_loop_unrolling(graph)


def constant(graph: Graph, value: Any, before: Node) -> Value:
    """A prim::Constant holding ``value``, placed before ``before``."""
    with graph.insert_point_guard(before):
        return graph.insertConstant(value)


def empty_list_like(graph: Graph, value: Value, before: Node) -> Value:
    """An empty list of the type that the value is, or may be, placed before ``before``: no constant holds one."""
    made = graph.create("prim::ListConstruct", [], 1)
    made.output().setType(value.type().getElementType() if value.type().kind() == "OptionalType" else value.type())
    made.insertBefore(before)
    return made.output()


def constant_value(value: Value) -> Any:
    """What a value made by prim::Constant holds; None for the constant None."""
    return value.toIValue()


def is_constant(value: Value) -> bool:
    return value.node().kind() == "prim::Constant"


def has_schema(node: Node) -> bool:
    return node.schema() != _NO_SCHEMA


def schema(node: Node) -> _C.FunctionSchema | None:
    """The schema of the operator a node runs, None for the constructs of the language."""
    text = node.schema()
    return None if text == _NO_SCHEMA else _parsed(text)


def arguments_of(schema: str) -> list[Any]:
    """The arguments in the text of an operator's schema."""
    return list(_parsed(schema).arguments)


@functools.lru_cache(maxsize=1024)
def overloads(kind: str) -> frozenset[str]:
    """The overload names of an operator; none where there is no such operator."""
    return frozenset(found.overload_name for found in _C._jit_get_schemas_for_operator(kind))


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> _C.FunctionSchema:
    return _C.parse_schema(text)


@functools.lru_cache(maxsize=4096)
def _written_places(schema: str) -> tuple[int, ...]:
    """The places of the arguments that an operator of this schema changes."""
    infos = [argument.alias_info for argument in _parsed(schema).arguments]
    return tuple(place for place, info in enumerate(infos) if info is not None and info.is_write)


def tensor_type(dtype: torch.dtype, sizes: Sequence[int | None]) -> _C.JitType:
    return _C.TensorType.get().with_dtype(dtype).with_sizes(list(sizes))


def int_type() -> _C.JitType:
    return _C.IntType.get()


def copy_into(graph: Graph, node: Node, copies: Mapping[str, Value]) -> Node:
    """A copy of ``node`` (and its blocks) that reads ``copies``, by the names of the originals; not yet placed."""
    return graph.createClone(node, lambda value: copies[value.debugName()])


def new_graph() -> Graph:
    return _C.Graph()


def function_of(name: str, graph: Graph) -> torch.jit.ScriptFunction[Any, Any]:
    """A callable function that runs ``graph``."""
    return _C._create_function_from_graph(name, graph)


# Export --------------------------------------------------------------------------------------------------------------

Symbolic = Callable[..., Any]


@contextmanager
def _unchanged(values: Iterable[Any]) -> Iterator[None]:
    """Undoes what is done to constant numbers meanwhile.

    The exporter's ``repeat_interleave`` counts its axis from the front in place, in the constant that other operators
    share.
    """
    constants = [value.node() for value in values if is_value(value) and value.node().kind() == "onnx::Constant"]
    numbers = [node.t("value") for node in constants if node.hasAttribute("value") and node.kindOf("value") == "t"]
    kept = [(number, number.clone()) for number in numbers if number.dim() == 0]
    try:
        yield
    finally:
        for number, before in kept:
            number.copy_(before)


@contextmanager
def _seam(around: Callable[[Symbolic, tuple[Any, ...]], Any]) -> Iterator[Any]:
    """Calls ``around(symbolic, arguments)`` in the place of each call of the exporter's symbolic functions."""
    from torch.onnx._internal.torchscript_exporter import utils

    original, inference = utils._run_symbolic_function, _C._jit_pass_onnx_graph_shape_type_inference

    def run(*arguments: Any, **settings: Any) -> Any:
        def symbolic() -> Any:
            with _unchanged(arguments[3]):
                return original(*arguments, **settings)

        return around(symbolic, arguments)

    utils._run_symbolic_function = run
    # the exporter's inference over the finished graph ends the process on some graphs (a transpose after an expand);
    # each node was inferred when it was made, and ONNX infers the finished model again
    _C._jit_pass_onnx_graph_shape_type_inference = lambda *_: None  # type: ignore[assignment]
    try:
        yield utils
    finally:
        utils._run_symbolic_function = original
        _C._jit_pass_onnx_graph_shape_type_inference = inference  # type: ignore[assignment]


@contextmanager
def _without_log() -> Iterator[None]:
    """Turns off what the exporter writes to the output on errors: every ``torch.onnx.export`` leaves it turned on."""
    before = _C._jit_is_onnx_log_enabled()
    _C._jit_set_onnx_log_enabled(False)
    try:
        yield
    finally:
        _C._jit_set_onnx_log_enabled(before)


def export_graph(
    graph: Graph,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_axes: dict[str, dict[int, str]],
    opset: int,
    around: Callable[[Symbolic, tuple[Any, ...]], Any],
) -> bytes:
    """Turns a TorchScript graph whose inputs are tensors with types into a serialized ONNX model without weights.

    ``around`` sees every symbolic function: see :func:`_seam`. The steps are those of ``torch.onnx.export`` without its
    second run of the model, its constant folding and its final check.
    """
    from torch.onnx._internal.torchscript_exporter._globals import GLOBALS

    operator_type = _C._onnx.OperatorExportTypes.ONNX
    with _EXPORTER, _seam(around) as utils, _without_log(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        utils._trigger_symbolic_function_registration()
        GLOBALS.onnx_shape_inference = True
        GLOBALS.export_onnx_opset_version = opset
        GLOBALS.operator_export_type = operator_type
        GLOBALS.in_onnx_export = True
        try:
            graph = utils._optimize_graph(
                graph, operator_type, params_dict={}, dynamic_axes=dynamic_axes, input_names=list(input_names)
            )
            utils._set_input_and_output_names(graph, list(input_names), list(output_names))
            _C._jit_pass_onnx_eliminate_unused_items(graph, {})
            _C._jit_pass_dce_allow_deleting_nodes_with_side_effects(graph)
            _C._jit_pass_onnx_assign_scoped_names_for_node_and_value(graph)
            proto, *_ = graph._export_onnx({}, opset, dynamic_axes, False, operator_type, True, False, {}, True, "", {})
        finally:
            GLOBALS.in_onnx_export = False
    return bytes(proto)


def graph_context(arguments: tuple[Any, ...], opset: int) -> Any:
    """The exporter's builder of ONNX nodes at the place of the symbolic call ``arguments``."""
    from torch.onnx._internal.torchscript_exporter import jit_utils

    graph, block, node, _, env, values_in_env, new_nodes = arguments[:7]
    return jit_utils.GraphContext(
        graph=graph, block=block, opset=opset, original_node=node, params_dict={}, env=env,
        values_in_env=values_in_env, new_nodes=new_nodes,
    )  # fmt: skip


def remove_attributes(nodes: Iterable[Node], name: str) -> None:
    for node in nodes:
        if node.hasAttribute(name):
            node.removeAttribute(name)


def has_rank(value: Value) -> bool:
    """Whether a tensor value's type tells its rank and dtype."""
    type_ = value.type()
    return type_.kind() == "TensorType" and type_.dim() is not None and type_.dtype() is not None


def made_sizes(value: Value) -> tuple[int | None, ...] | None:
    """The dimensions that ONNX's shape inference gave a value, None for those not known; None where it gave no rank."""
    type_ = value.type()
    sizes = type_.symbolic_sizes() if type_.kind() == "TensorType" and type_.dim() is not None else None
    return tuple(size if size >= 0 else None for size in sizes) if sizes is not None else None


# Graphs from scratch -------------------------------------------------------------------------------------------------


def shell(root: torch.nn.Module, source: str) -> torch.jit.ScriptModule:
    """A ScriptModule over ``root``'s parameters and buffers whose methods are the TorchScript ``source``."""
    from torch.jit._recursive import create_script_module

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: torch.jit.ScriptModule
        module = create_script_module(root, lambda _: [], share_types=False)  # type: ignore[no-untyped-call]
        module.define(source)
    return module


def attribute(graph: Graph, module: torch.jit.ScriptModule, path: str) -> Value:
    """The tensor attribute at ``path`` (``layer1.0.weight``) of the module that is ``graph``'s first argument."""
    value, owner = next(iter(graph.inputs())), module._c
    for name in path.split("."):
        node = graph.insertNode(graph.create("prim::GetAttr", [value], 1))
        node.s_("name", name)
        value = node.output()
        found = owner.getattr(name)
        is_module = isinstance(found, _C.ScriptModule)
        value.setType(found._type() if is_module else _C.TensorType.get())
        owner = found
    return value


def add_attribute(graph: Graph, module: torch.jit.ScriptModule, name: str, tensor: torch.Tensor) -> Value:
    """A tensor as a new attribute of the module that is ``graph``'s first argument; it is read first of all."""
    free = next(free for number in itertools.count() if not module._c.hasattr(free := f"{name}_{number}"))
    module._c._register_attribute(free, _C.TensorType.get(), tensor)
    node = graph.create("prim::GetAttr", [next(iter(graph.inputs()))], 1)
    node.s_("name", free)
    node.output().setType(_C.TensorType.get())
    graph.prependNode(node)
    return node.output()


def set_attributes(module: torch.jit.ScriptModule) -> set[str]:
    """Names of attributes that some method replaces."""
    graphs = (graph_of(module, name) for name in method_names(module))
    return {node.s("name") for one in graphs for node in walk(one) if node.kind() == "prim::SetAttr"}


def replace_output(graph: Graph, value: Value) -> None:
    """Makes ``value`` the graph's one output."""
    graph.registerOutput(value)
    graph.eraseOutput(0)


def is_value(thing: object) -> TypeGuard[Value]:
    return isinstance(thing, Value)


def float_type() -> _C.JitType:
    return _C.FloatType.get()


def bool_type() -> _C.JitType:
    return _C.BoolType.get()


def any_tensor_type() -> _C.JitType:
    return _C.TensorType.get()


def tuple_type(elements: Sequence[_C.JitType]) -> _C.JitType:
    return _C.TupleType(list(elements))


def without_optional(type_: _C.JitType) -> _C.JitType:
    return type_.getElementType() if type_.kind() == "OptionalType" else type_


def element_type(type_: _C.JitType) -> _C.JitType | None:
    """What a list type holds; None when it is no list."""
    return type_.getElementType() if type_.kind() == "ListType" else None


def insert_call(
    graph: Graph, operator: str, tensors: Sequence[Value], constants: Sequence[Any], results: int, after: Node
) -> list[Value]:
    """Inserts ``operator(Tensor[] tensors, *constants) -> Tensor[]`` behind ``after``; gives its results unpacked."""
    listed = graph.create("prim::ListConstruct", list(tensors), 1)
    listed.output().setType(_C.ListType(_C.TensorType.get()))
    listed.insertAfter(after)
    call_inputs = [listed.output(), *(constant(graph, value, listed) for value in constants)]
    call = graph.create(operator, call_inputs, 1)
    call.output().setType(_C.ListType(_C.TensorType.get()))
    call.insertAfter(listed)
    unpack = graph.create("prim::ListUnpack", [call.output()], results)
    unpack.insertAfter(call)
    return list(unpack.outputs())


def append_tuple(graph: Graph, values: Sequence[Value]) -> Value:
    """A tuple of values, made at the end of the graph."""
    made = graph.create("prim::TupleConstruct", list(values), 1)
    made.output().setType(_C.TupleType([value.type() for value in values]))
    graph.appendNode(made)
    return made.output()


def insert(graph: Graph, kind: str, inputs: Sequence[Value], before: Node, like: Node | None = None) -> Value:
    """The result of a new operator, placed before ``before``; it comes from where ``like`` does, else ``before``."""
    made = graph.create(kind, list(inputs), 1)
    made.insertBefore(before)
    made.copyMetadata(like or before)
    return made.output()


def insert_note(graph: Graph, value: Value, index: int, before: Node) -> Node:
    """An operator in front of ``before`` that looks at a tensor while a module is calibrated."""
    note = graph.create("bridge_calibrate::note", [value, constant(graph, index, before)], 0)
    note.insertBefore(before)
    return note


def insert_list(graph: Graph, tensors: Sequence[Value], before: Node) -> Value:
    """A list of tensors, made before ``before``."""
    listed = graph.create("prim::ListConstruct", list(tensors), 1)
    listed.output().setType(_C.ListType(_C.TensorType.get()))
    listed.insertBefore(before)
    return listed.output()


def field_names(value: Value) -> list[str] | None:
    """The fields of a named tuple's type, None for any other."""
    names = getattr(value.type(), "field_names", None)
    return list(names()) if callable(names) and names() else None


def insert_cast(graph: Graph, value: Value, dtype: torch.dtype, users: Iterable[Node]) -> None:
    """Lets ``users`` read a graph input as ``dtype`` (no copy where it is that already)."""
    first = next(iter(graph.nodes()))
    arguments = [value, *(constant(graph, v, first) for v in (dtype, False, False, None))]
    cast = graph.create("aten::to", arguments, 1)
    cast.insertBefore(first)
    cast.output().setType(_C.TensorType.get())
    for user in users:
        user.replaceInputWith(value, cast.output())


def as_declared(value: Any, kind: Any) -> Any:
    """A Python value as an argument of this type holds it: lists for tuples and sizes, floats for whole numbers."""
    if kind.kind() == "OptionalType" and value is not None:
        return as_declared(value, kind.getElementType())
    if kind.kind() == "FloatType" and type(value) is int:
        return float(value)
    if kind.kind() == "ListType" and isinstance(value, (list, tuple)):
        return [as_declared(item, kind.getElementType()) for item in value]
    if kind.kind() == "TupleType" and isinstance(value, tuple) and len(value) == len(kind.elements()):
        return tuple(map(as_declared, value, kind.elements()))
    if kind.kind() == "DictType" and isinstance(value, dict):
        return {key: as_declared(item, kind.getValueType()) for key, item in value.items()}
    return value


_COMPARED = ("IntType", "FloatType", "BoolType", "StringType")


def guard(graph: Graph, value: Value, wanted: Any, message: str) -> None:
    """Raises ``message`` at the start when an argument is not ``wanted``.

    Numbers, strings and None are compared, also in lists, tuples and dictionaries; values of other types are not.
    """
    _guard(graph, next(iter(graph.nodes()), graph.return_node()), value, wanted, message)


def _guard(graph: Graph, before: Node, value: Value, wanted: Any, message: str) -> None:
    kind = value.type().kind()
    if kind == "OptionalType":
        _refuse(graph, before, "aten::__isnot__" if wanted is None else "aten::__is__", value, None, message)
        if wanted is not None:
            held = _insert(graph, before, "prim::unchecked_cast", [value], value.type().getElementType())
            _guard(graph, before, held, wanted, message)
    elif kind in _COMPARED or (kind == "ListType" and wanted and value.type().getElementType().kind() in _COMPARED):
        _refuse(graph, before, "aten::ne", value, wanted, message)
    elif kind == "TupleType":
        for i, (item, element) in enumerate(zip(wanted, value.type().elements(), strict=True)):
            held = _insert(graph, before, "prim::TupleIndex", [value, constant(graph, i, before)], element)
            _guard(graph, before, held, item, message)
    elif kind in ("ListType", "DictType"):
        length = _insert(graph, before, "aten::len", [value], _C.IntType.get())
        _refuse(graph, before, "aten::ne", length, len(wanted), message)
        element = value.type().getValueType() if kind == "DictType" else value.type().getElementType()
        for key, item in wanted.items() if kind == "DictType" else enumerate(wanted):
            held = _insert(graph, before, "aten::__getitem__", [value, constant(graph, key, before)], element)
            _guard(graph, before, held, item, message)


def _refuse(graph: Graph, before: Node, test: str, value: Value, wanted: Any, message: str) -> None:
    """Raises ``message`` when ``test(value, wanted)`` is true."""
    condition = _insert(graph, before, test, [value, constant(graph, wanted, before)], _C.BoolType.get())
    branch = graph.create("prim::If", [condition], 0)
    branch.insertBefore(before)
    raising, _ = branch.addBlock(), branch.addBlock()
    raising.addNode("prim::RaiseException", [constant(graph, held, branch) for held in (message, None)])


def _insert(graph: Graph, before: Node, operator: str, arguments: list[Value], kind: Any) -> Value:
    made = graph.create(operator, arguments, 1)
    made.insertBefore(before)
    made.output().setType(kind)
    return made.output()


# Streams and memory ---------------------------------------------------------------------------------------------------
# What every call of an engine asks is PyTorch's own function where it was built for CUDA: one around it costs more.


def _without_cuda(*arguments: Any) -> Any:
    raise RuntimeError("this PyTorch was built without CUDA")


current_stream: Callable[[int], int] = getattr(_C, "_cuda_getCurrentRawStream", _without_cuda)
"""The handle (a cudaStream_t) of a GPU's current stream: in a tenth of the time that a `torch.cuda.Stream` takes."""

current_device: Callable[[], int] = getattr(_C, "_cuda_getDevice", _without_cuda)
"""The index of the current GPU."""

is_capturing: Callable[[], bool] = getattr(_C, "_cuda_isCurrentStreamCapturing", bool)
"""Whether the current stream is being captured into a CUDA graph."""

is_profiling: Callable[[], bool] = _C._autograd._profiler_enabled
"""Whether torch.profiler, or NVTX by `torch.autograd.profiler.emit_nvtx`, listens in this thread."""

profiler: Any = torch.autograd.profiler
"""Its `_is_profiler_enabled` says in less time whether any of these listens in any thread."""

_guards: Any = _C._dynamo.guards

empty_cuda: Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], torch.Tensor] = _guards._empty_strided_cuda
"""A tensor of these sizes and strides on the current GPU, as Inductor makes it: faster than `torch.empty`."""

empty_cpu: Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], torch.Tensor] = _guards._empty_strided_cpu
"""The same in the host's memory."""


def like_these(tensors: Sequence[torch.Tensor]) -> Callable[..., bool]:
    """A test of as many tensors: whether type, dtype, device, sizes, strides and `requires_grad` are those of these.

    One call for all of them, which dynamo's code makes for the same end. What else it compares (dispatch keys, as they
    are in this thread now) makes it say no now and then where it could say yes.

    Raises:
        TypeError: what the test raises for another number of tensors.
    """
    if not tensors:
        return _takes_nothing
    sizes, strides = [list(tensor.shape) for tensor in tensors], [list(tensor.stride()) for tensor in tensors]
    guards = _guards.TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
    checks: Callable[..., bool] = guards.check
    return checks


def _takes_nothing() -> bool:
    return True
