"""What is known of every value of a graph: seen once, and argued to hold for every call.

Three questions are answered for each value by how far it depends on the call (:class:`Varies`): its kind (dtype and
rank), its shape and its content. What varies with nothing may be folded into the graph, and only that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import torch

from bridge import torch_private as tp
from bridge.frontend.alias import Memory
from bridge.frontend.observe import Observations, TensorSeen
from bridge.frontend.shapes import Symbols, dims_of, propagated
from bridge.frontend.unseen import shape_follows


class Varies(IntEnum):
    """What a property of a value depends on, from nothing to the numbers in the inputs."""

    NEVER = 0
    WITH_SHAPES = 1
    WITH_DATA = 2


@dataclass(frozen=True)
class Fact:
    """How far a value's dtype and rank, its shape, its content, and whether it is None depend on the call."""

    kind: Varies = Varies.NEVER
    shape: Varies = Varies.NEVER
    content: Varies = Varies.NEVER
    presence: Varies = Varies.NEVER

    def __or__(self, other: Fact) -> Fact:
        return Fact(
            max(self.kind, other.kind), max(self.shape, other.shape), max(self.content, other.content),
            max(self.presence, other.presence),
        )  # fmt: skip


_UNKNOWN = Fact(Varies.WITH_DATA, Varies.WITH_DATA, Varies.WITH_DATA, Varies.WITH_DATA)
_READS_SHAPE = {
    "aten::size",
    "aten::sym_size",
    "aten::numel",
    "aten::sym_numel",
    "aten::_shape_as_tensor",
    "aten::stride",
}
_READS_KIND = {
    "aten::dim", "prim::dtype", "prim::device", "prim::layout", "aten::is_floating_point", "aten::is_complex",
    "prim::is_cuda",
    "prim::requires_grad", "prim::is_nested", "aten::is_signed", "aten::is_conj", "aten::is_neg", "prim::is_sparse",
    "prim::is_quantized", "prim::is_cpu", "prim::is_xpu", "prim::is_mps", "prim::is_meta",
}  # fmt: skip
_READS_PRESENCE = {"aten::__is__", "aten::__isnot__"}
_CONTENT_SHAPES = {
    "aten::nonzero", "aten::nonzero_numpy", "aten::argwhere", "aten::unique_dim", "aten::_unique", "aten::_unique2",
    "aten::unique_consecutive", "aten::masked_select", "aten::bincount", "aten::repeat_interleave", "aten::one_hot",
    "aten::_pack_padded_sequence", "aten::_pad_packed_sequence", "aten::to_sparse", "aten::tensor_split",
    "aten::_ctc_loss", "aten::ctc_loss", "aten::histogram", "aten::histogramdd", "aten::_nested_tensor_from_mask",
    "aten::_nested_from_padded", "aten::to_padded_tensor", "aten::nested_to_padded_tensor",
}  # fmt: skip
_RESHAPES_IN_PLACE = {
    "aten::resize_", "aten::resize_as_", "aten::set_", "aten::squeeze_", "aten::unsqueeze_", "aten::t_",
    "aten::transpose_", "aten::swapaxes_", "aten::swapdims_", "aten::as_strided_",
}  # fmt: skip
_PURE_NAMESPACES = ("aten", "prim", "torchvision", "quantized")


@dataclass
class Facts:
    """Observations and how far they hold, by the values' names in one graph."""

    seen: Observations
    varies: dict[str, Fact] = field(default_factory=dict)
    dims: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    symbols: dict[str, Symbols] = field(default_factory=dict)

    def of(self, value: tp.Value) -> Fact:
        return self.varies.get(value.debugName(), _UNKNOWN)

    def tensor(self, value: tp.Value) -> TensorSeen | None:
        """The tensor as first seen; a constant as it is."""
        held = tp.constant_value(value) if tp.is_constant(value) else None
        if isinstance(held, torch.Tensor):
            return TensorSeen(held.dtype, tuple(held.shape), held.device)
        return self.seen.tensor(value.debugName())

    def known_kind(self, value: tp.Value) -> TensorSeen | None:
        """The tensor as seen, if its dtype and rank are the same in every call."""
        return self.tensor(value) if self.of(value).kind is Varies.NEVER else None

    def sizes(self, value: tp.Value) -> tuple[int | None, ...] | None:
        """A tensor's dimensions, None for each that varies; None for the whole when not even the rank is certain."""
        tensor = self.known_kind(value)
        if tensor is None:
            return None
        if self.of(value).shape is Varies.NEVER:
            return tensor.shape
        dims = self.dims.get(value.debugName(), ())
        return dims if len(dims) == tensor.rank else (None,) * tensor.rank


@dataclass(frozen=True)
class Argument:
    """What is known of one input of a graph before any run.

    Attributes:
        fact: what it varies with.
        dims: of a tensor, its dimensions, None where a call may choose.
        fixed: whether it is a Python value that is part of the compiled module.
        value: that value.
    """

    fact: Fact
    dims: tuple[int | None, ...] | None = None
    fixed: bool = False
    value: Any = None


def reason(
    graph: tp.Graph, seen: Observations, inputs: list[Argument], others: Sequence[tp.Graph] = ()
) -> Iterator[Facts]:
    """Carries what the graph's inputs vary with to every value: by operators alone, then with shape functions too.

    Args:
        inputs: one for each input of ``graph`` but the module itself, which comes first.
        others: graphs of the module's other methods, which may change its attributes between two calls.
    """
    facts = Facts(seen)
    values = list(graph.inputs())
    facts.varies[values[0].debugName()] = Fact()
    for value, argument in zip(values[1:], inputs, strict=True):
        facts.varies[value.debugName()] = argument.fact
        if argument.dims is not None:
            facts.dims[value.debugName()] = argument.dims
    reasoner = _Reasoner(facts, graph, others)
    reasoner.run()
    yield facts
    if any(fact.shape is not Varies.NEVER for fact in facts.varies.values()):
        loops = any(node.kind() == "prim::Loop" for node in tp.walk(graph))
        for _ in range(1 + loops):  # what a loop begins with is known before what it makes of it
            facts.symbols = propagated(graph, facts)
            facts.dims.update({name: dims_of(symbols) for name, symbols in facts.symbols.items()})
            reasoner.run()
        yield facts


class _Reasoner:
    def __init__(self, facts: Facts, graph: tp.Graph, others: Sequence[tp.Graph]) -> None:
        self.facts, self.graph, self.memory = facts, graph, Memory(graph, others)
        self.written: dict[str, Fact] = {}
        self.common: set[str] = set()
        self.follows: dict[tuple[str, ...], bool] = {}
        self.nothing = {n.output().debugName() for n in tp.walk(graph) if n.kind() == "prim::Uninitialized"}
        self.set_attributes = {
            node.s("name") for one in (graph, *others) for node in tp.walk(one) if node.kind() == "prim::SetAttr"
        }
        self.reshaped = {self.memory.place(n.inputsAt(0)) for n in tp.walk(graph) if n.kind() in _RESHAPES_IN_PLACE}

    def run(self) -> None:
        """Two rounds: what a list holds by the end of the first is what it may hold at any place in the second."""
        for value in list(self.graph.inputs())[1:]:
            self._set(value, self.facts.varies[value.debugName()])
        self.block(self.graph)
        self.written = self._contents()
        if self.written:
            self.block(self.graph)

    def _contents(self) -> dict[str, Fact]:
        """What tensors out of memory that is written to may be: as all that is ever put there."""
        members: dict[str, list[tp.Value]] = {}
        for value in tp.values(self.graph):
            if value.type().kind() == "TensorType" and self.memory.holder_written(value):
                members.setdefault(self.memory.place(value), []).append(value)
        return {
            place: Fact() if self._alike(values) else Fact(kind=Varies.WITH_DATA) for place, values in members.items()
        }

    def block(self, block: tp.Graph | tp.Block) -> None:
        for node in block.nodes():
            if node.kind() == "prim::If":
                self._branch(node)
            elif node.kind() == "prim::Loop":
                self._loop(node)
            else:
                self._operator(node)

    def _set(self, value: tp.Value, fact: Fact) -> None:
        name = value.debugName()
        if name in self.facts.seen.values and not self.facts.seen.steady(name) and _is_tensor(value):
            fact = fact | Fact(kind=Varies.WITH_DATA)
        seen, dims = self.facts.seen.tensor(name), self.facts.dims.get(name, ())
        if fact.kind is Varies.NEVER and seen is not None and dims == seen.shape:
            fact = replace(fact, shape=Varies.NEVER)
        self.facts.varies[name] = fact | self._by_writing(value)

    def _by_writing(self, value: tp.Value) -> Fact:
        """What writing to memory makes of the values in it: tensors keep their shapes, lists need not."""
        place = self.memory.place(value)
        if place in self.reshaped:
            return _UNKNOWN
        if self.memory.is_container(value) and self.memory.written(value):
            return Fact(Varies.NEVER, Varies.WITH_DATA, Varies.WITH_DATA) | self.written.get(
                place, Fact(kind=Varies.WITH_DATA)
            )
        return Fact(content=Varies.WITH_DATA) if self.memory.written(value) else Fact()

    def _operator(self, node: tp.Node) -> None:
        fact = self._result(node)
        for value in tp.outputs_of(node):
            self._set(value, fact)

    def _result(self, node: tp.Node) -> Fact:
        kind = node.kind()
        if kind in ("prim::Constant", "prim::GetAttr"):
            return _UNKNOWN if kind == "prim::GetAttr" and node.s("name") in self.set_attributes else Fact()
        inputs = [self.facts.of(value) for value in tp.inputs_of(node)]
        together = Fact()
        for fact in inputs:
            together = together | fact
        if kind in _READS_PRESENCE:
            return Fact(content=max(together.presence, together.kind))
        if kind == "prim::unchecked_cast":
            return replace(together, presence=Varies.NEVER)
        if kind in _READS_KIND:
            return Fact(content=max((fact.kind for fact in inputs), default=Varies.NEVER))
        if kind == "aten::len" and _counts_dimensions(node.inputsAt(0)):
            return Fact(content=together.kind)
        if kind == "aten::size" and self._static_size(node):
            return Fact()
        if kind in _READS_SHAPE:
            return Fact(content=max((max(fact.shape, fact.kind) for fact in inputs), default=Varies.NEVER))
        if kind.partition("::")[0] not in _PURE_NAMESPACES:
            numbers = [self.facts.of(value).content for value in _sizing(node)]
            shape = max([together.shape, *numbers]) if self._follows(node) else Varies.WITH_DATA
            return Fact(together.kind, shape, Varies.WITH_DATA)
        random = Fact(content=Varies.WITH_DATA) if node.isNondeterministic() else Fact()
        return self._pure(node, together) | random | self._maybe_none(node, together)

    def _follows(self, node: tp.Node) -> bool:
        """Whether the shapes of a custom operator's results follow from those of its inputs."""
        names = tuple(value.debugName() for value in tp.outputs_of(node))
        if names not in self.follows:
            self.follows[names] = shape_follows(node, self.facts.seen)
        return self.follows[names]

    def _maybe_none(self, node: tp.Node, together: Fact) -> Fact:
        """Whether an operator gives None (a dict that is asked for a key) follows from the content of its inputs."""
        optional = any(value.type().kind() == "OptionalType" for value in tp.outputs_of(node))
        return Fact(presence=together.content if optional else Varies.NEVER)

    def _static_size(self, node: tp.Node) -> bool:
        """Whether the dimensions that ``size`` reads never vary."""
        inputs = tp.inputs_of(node)
        sizes = self.facts.sizes(inputs[0])
        if sizes is None or (len(inputs) > 1 and not tp.is_constant(inputs[1])):
            return False
        read = sizes if len(inputs) == 1 else sizes[tp.constant_value(inputs[1]) :][:1]
        return None not in read

    def _pure(self, node: tp.Node, together: Fact) -> Fact:
        """Shapes follow from shapes and from Python numbers; the content follows from everything."""
        numbers = [self.facts.of(v).content for v in _sizing(node)]
        shape = max([together.shape, *numbers])
        if node.kind() == "aten::__getitem__" and self._unlike_items(node):
            shape = Varies.WITH_DATA
        shape = max([shape, *(self.facts.of(value).content for value in _sized_by(node))])
        if node.kind() in ("aten::index", "aten::where") and self._by_mask(node):
            shape = max(shape, together.content)
        kind = together.kind
        if node.kind() == "aten::squeeze" and len(tp.inputs_of(node)) == 1:
            kind = max(kind, shape)
        return Fact(kind, shape, max(together.content, shape))

    def _unlike_items(self, node: tp.Node) -> bool:
        """Whether an index not known picks from a list of tensors that differ."""
        listed, index = tp.inputs_of(node)
        if tp.is_constant(index) or not _is_tensor(listed):
            return False
        seen = self.facts.seen.values.get(listed.debugName(), [])
        return len({(item.dtype, item.shape) for items in seen if items is not None for item in items}) > 1

    def _by_mask(self, node: tp.Node) -> bool:
        """Indexing by booleans, or where() with one argument: as many results as there are true elements."""
        if node.kind() == "aten::where":
            return len(tp.inputs_of(node)) == 1
        indices = tp.inputs_of(node)[1]
        listed = indices.node()
        tensors: list[Any]
        if tp.is_constant(indices):
            tensors = list(tp.constant_value(indices))
        elif listed.kind() == "prim::ListConstruct":
            tensors = [self.facts.tensor(value) for value in listed.inputs()]
        else:
            tensors = [None]
        return any(
            t is None or t.dtype in (torch.bool, torch.uint8) for t in tensors if t is not None or len(tensors) == 1
        )

    def _branch(self, node: tp.Node) -> None:
        condition = self.facts.of(node.input())
        branches = tp.blocks_of(node)
        for block in branches:
            self.block(block)
        taken = self._taken(node)
        if taken is not None:
            branches = [branches[taken]]
        for position, value in enumerate(tp.outputs_of(node)):
            sides = [list(block.outputs())[position] for block in branches]
            if all(side.debugName() in self.nothing for side in sides):
                self.nothing.add(value.debugName())
            sides = [side for side in sides if side.debugName() not in self.nothing] or sides
            chosen = condition.content if len(sides) > 1 else Varies.NEVER
            shape = Varies.NEVER if self._same_shape(*sides) else chosen
            fact = self.facts.of(sides[0]) | self.facts.of(sides[-1]) | Fact(shape=shape, content=condition.content)
            if value.type().kind() == "OptionalType":
                fact = fact | Fact(presence=chosen)
            if condition.content is not Varies.NEVER and not self._alike(sides):
                fact = fact | Fact(kind=Varies.WITH_DATA)
            self._keep_common(value, sides)
            self._set(value, fact)

    def _same_shape(self, *values: tp.Value) -> bool:
        """Whether tensors are proven to have one shape in every call."""
        symbols = {self.facts.symbols.get(value.debugName()) for value in values}
        return len(symbols) == 1 and None not in symbols

    def _keep_common(self, value: tp.Value, sides: list[tp.Value]) -> None:
        """The dimensions of what a branch gives, when both sides give the same."""
        name = value.debugName()
        sizes = {self.facts.sizes(side) for side in sides if side.type().kind() != "NoneType"}
        common = sizes.pop() if len(sizes) == 1 else None
        if common is not None and None not in common:
            self.facts.dims[name] = common
            self.common.add(name)
        elif name in self.common:
            self.common.remove(name)
            del self.facts.dims[name]

    def _taken(self, node: tp.Node) -> int | None:
        """The branch that every call takes: 0, 1, or None when that depends on the call."""
        condition = node.input()
        if tp.is_constant(condition):
            return 0 if tp.constant_value(condition) else 1
        known, value = self.facts.seen.constant(condition.debugName())
        return (0 if value else 1) if known and self.facts.of(condition).content is Varies.NEVER else None

    def _alike(self, sides: list[tp.Value]) -> bool:
        """Whether all of them that are not None are known to have one dtype and rank."""
        tensors = [self.facts.known_kind(side) for side in sides if side.type().kind() != "NoneType"]
        return all(
            t is not None and tensors[0] is not None and (t.dtype, t.rank) == (tensors[0].dtype, tensors[0].rank)
            for t in tensors
        )

    def _loop(self, node: tp.Node) -> None:
        inputs = tp.inputs_of(node)
        body = next(iter(node.blocks()))
        around = Fact(shape=self.facts.of(inputs[0]).content, content=max(self.facts.of(v).content for v in inputs[:2]))
        parameters = list(body.inputs())
        self._set(parameters[0], Fact(content=Varies.WITH_DATA))
        changing = [self._changing(*pair) for pair in zip(parameters[1:], list(body.outputs())[1:], strict=True)]
        carried = [self.facts.of(value) | change for value, change in zip(inputs[2:], changing, strict=True)]
        for _ in range(4):
            for parameter, fact, *ends in zip(
                parameters[1:], carried, inputs[2:], list(body.outputs())[1:], strict=True
            ):
                self._keep_dims(parameter, *ends)
                self._set(parameter, fact)
            self.block(body)
            results = [self.facts.of(value) for value in body.outputs()]
            joined = map(self._joined, inputs[2:], list(body.outputs())[1:], parameters[1:])
            update = [old | new | join for old, new, join in zip(carried, results[1:], joined, strict=True)]
            if update == carried:
                break
            carried = update
        around = around | Fact(shape=results[0].content, content=results[0].content)
        for value, fact, start, end, parameter in zip(
            tp.outputs_of(node), carried, inputs[2:], list(body.outputs())[1:], parameters[1:], strict=True
        ):
            turns = Varies.NEVER if self._same_shape(parameter, end) else around.content
            varying = Fact(shape=max(fact.shape, turns), content=Varies.WITH_DATA)
            self._set(value, fact | varying | self._joined(start, end, value))

    def _joined(self, start: tp.Value, end: tp.Value, value: tp.Value) -> Fact:
        """What it makes of a loop's value that it begins as one thing and goes on as another."""
        sides = [side for side in (start, end) if side.debugName() not in self.nothing]
        kind = Varies.NEVER if not _is_tensor(value) or self._alike(sides) else Varies.WITH_DATA
        changes = value.type().kind() == "OptionalType" and start.debugName() != end.debugName()
        return Fact(kind, presence=Varies.WITH_DATA if changes else Varies.NEVER)

    def _keep_dims(self, parameter: tp.Value, start: tp.Value, result: tp.Value) -> None:
        """The dimensions of a loop's value that no turn was ever seen to change."""
        begun = self.facts.sizes(start)
        seen = [
            s
            for value in (parameter, result)
            for s in self.facts.seen.values.get(value.debugName(), ())
            if isinstance(s, TensorSeen)
        ]
        if begun is not None and seen and all(s.rank == len(begun) for s in seen):
            kept = tuple(size if all(s.shape[axis] == size for s in seen) else None for axis, size in enumerate(begun))
            self.facts.dims[parameter.debugName()] = kept

    def _changing(self, parameter: tp.Value, result: tp.Value) -> Fact:
        """What a loop changes of a value from turn to turn: its content; its shape, if ever seen to change."""
        if parameter.debugName() == result.debugName():
            return Fact()
        seen = [s for value in (parameter, result) for s in self.facts.seen.values.get(value.debugName(), ())]
        shapes = {s.shape for s in seen if isinstance(s, TensorSeen)}
        steady = len(shapes) == 1 or self._same_shape(parameter, result)
        return Fact(shape=Varies.NEVER if steady else Varies.WITH_DATA, content=Varies.WITH_DATA)


def _counts_dimensions(listed: tp.Value) -> bool:
    """Whether a list holds sizes, one a dimension, or elements that are written down, or a constant part of either."""
    node = listed.node()
    if node.kind() == "aten::slice":
        whole, *bounds = tp.inputs_of(node)
        return all(map(tp.is_constant, bounds)) and _counts_dimensions(whole)
    return node.kind() in ("aten::size", "prim::ListConstruct")


def _sized_by(node: tp.Node) -> list[tp.Value]:
    """The values by whose content the shape of what an operator gives is decided."""
    given = tp.inputs_of(node)
    if node.kind() in ("aten::repeat_interleave", "aten::tensor_split") and len(given) > 2:
        return given[1:2] if given[1].type().kind() == "TensorType" else []
    if node.kind() == "aten::one_hot":
        return [] if tp.is_constant(given[1]) and tp.constant_value(given[1]) > 0 else given
    return given if node.kind() in _CONTENT_SHAPES else []


def _sizing(node: tp.Node) -> list[tp.Value]:
    """The Python values among a node's arguments that may decide the shape of its result."""
    schema = tp.schema(node)
    if schema is None:
        return [value for value in tp.inputs_of(node) if not _is_tensor(value)]
    numbers = node.kind() not in ("aten::arange", "aten::range")
    return [
        value for value, argument in zip(tp.inputs_of(node), schema.arguments, strict=False)
        if not _is_tensor(value)
        and not (numbers and argument.type.kind() == "NumberType")
        and not (argument.name == "index" and node.kind() == "aten::select")
        and not (argument.name == "idx" and node.kind() == "aten::__getitem__" and _is_tensor(node.output()))
    ]  # fmt: skip


def _is_tensor(value: tp.Value) -> bool:
    return "Tensor" in str(value.type().annotation_str)


def settle_modes(graph: tp.Graph, *, gradients: bool = False) -> None:
    """Fixes what the interpreter's state decides: no autocast and no gradients, as where a module is only applied.

    Encoders go the way of nested tensors then, which `bridge.frontend.nested` follows whatever their masks are; with
    gradients they go from layer to layer.
    """
    modes = {
        "aten::is_grad_enabled": gradients,
        "prim::requires_grad": True,
        "aten::_nested_tensor_from_mask_left_aligned": True,
        "aten::is_autocast_enabled": False,
        "aten::is_autocast_cpu_enabled": False,
    }
    for node in list(tp.walk(graph)):
        if node.kind() in modes:
            node.output().replaceAllUsesWith(tp.constant(graph, modes[node.kind()], node))
            node.destroy()


def fold(graph: tp.Graph, facts: Facts, device: torch.device) -> bool:
    """Replaces Python values that are the same in every call by constants; tells whether it changed anything."""
    changed = False
    for node in list(tp.walk(graph)):
        if node.kind() in ("prim::Constant", "prim::GetAttr") or node.outputsSize() != 1:
            continue
        known, value = _folded(node, facts, device)
        if known and node.hasUses() and not _changed_in_place(node.output()):
            empty = isinstance(value, list) and not value
            replacement = tp.empty_list_like(graph, node.output(), node) if empty else tp.constant(graph, value, node)
            facts.varies[replacement.debugName()] = Fact()
            node.output().replaceAllUsesWith(replacement)
            changed = True
    return changed


def _folded(node: tp.Node, facts: Facts, device: torch.device) -> tuple[bool, Any]:
    output = node.output()
    if _is_tensor(output) or facts.of(output).content is not Varies.NEVER:
        return False, None
    if node.kind() == "prim::device":
        return True, device
    if node.kind() == "prim::ListConstruct":
        return False, None
    return facts.seen.constant(output.debugName())


def _changed_in_place(value: tp.Value) -> bool:
    """Whether a list may be changed after it was made: constants may not."""
    if not str(value.type().annotation_str).startswith("List"):
        return False
    return any(not _only_reads(use.user, use.offset) for use in value.uses())


def _only_reads(node: tp.Node, offset: int) -> bool:
    schema = tp.schema(node)
    if schema is None:
        return node.kind() == "prim::ListUnpack"
    alias = schema.arguments[offset].alias_info if offset < len(schema.arguments) else None
    return alias is None
