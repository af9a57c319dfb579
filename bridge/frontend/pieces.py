"""What is written in place into a tensor that is read piece by piece only, or by one view only: made functional.

PyTorch's recurrent cells compute their gates so, and attention scales what a projection gave after it is cut into
heads. PyTorch's own pass for this leaves alone whatever came out of a list, and views.
"""

from __future__ import annotations

from bridge import torch_private as tp
from bridge.frontend import in_place

_SPLITS = {
    "aten::chunk", "aten::unsafe_chunk", "aten::split", "aten::unsafe_split", "aten::split_with_sizes",
    "aten::unsafe_split_with_sizes", "aten::unbind", "aten::tensor_split",
}  # fmt: skip


_GIVE_THEIR_INPUT = {
    "aten::dropout", "aten::feature_dropout", "aten::alpha_dropout", "aten::feature_alpha_dropout", "aten::contiguous",
    "aten::to", "aten::type_as", "aten::to_dense", "aten::reshape", "aten::flatten", "aten::_unsafe_view",
    "aten::einsum", "aten::cartesian_prod", "aten::atleast_1d", "aten::atleast_2d", "aten::atleast_3d",
    "aten::broadcast_tensors", "aten::meshgrid",
}  # fmt: skip
"""Operators whose result may be their argument, of which their schemas say nothing."""
_APART = {
    "aten::topk", "aten::sort", "aten::max", "aten::min", "aten::aminmax", "aten::median", "aten::nanmedian",
    "aten::kthvalue", "aten::mode", "aten::cummax", "aten::cummin", "aten::var_mean", "aten::std_mean", "aten::frexp",
}  # fmt: skip
"""Operators whose several results are in memory of their own, each."""
_MEASURES = {"aten::size", "aten::dim", "aten::numel", "aten::len", "prim::dtype", "prim::device"}


def settle(graph: tp.Graph) -> None:
    """Replaces in-place operators on the pieces of a split tensor by functional ones.

    Only where the tensor is new, and nothing but the split reads it; where operators of the piece's own block read
    and write it, which give no views of it, and whatever may keep it comes last. Pieces of one tensor do not overlap.
    """
    for node in [node for node in tp.walk(graph) if node.kind() == "prim::ListUnpack"]:
        if _is_all_that_reads(node):
            for piece in list(node.outputs()):
                _settle(graph, piece)


def settle_views(graph: tp.Graph) -> None:
    """Replaces in-place operators on a view of a tensor by functional ones, where nothing else sees the tensor."""
    tried: set[str] = set()
    while _settle_next_view(graph, tried):
        pass


def _settle_next_view(graph: tp.Graph, tried: set[str]) -> bool:
    """Settles the writes into one view, and with them ends: they are gone."""
    for node in tp.walk(graph):
        if not is_write(node):
            continue
        value = next(iter(node.inputs()))
        if value.debugName() not in tried:
            tried.add(value.debugName())
            if is_only_view(value) and _settle(graph, value):
                return True
    return False


def is_only_view(value: tp.Value) -> bool:
    """Whether a value is a new tensor, or all that is seen of one, made in one block."""
    node = value.node()
    if node.kind() == "aten::einsum":
        return list(node.inputs())[1].node().inputsSize() > 1  # of one operand it may be a view
    if makes_new(node):
        return node.outputsSize() == 1 or node.kind() in _APART
    if not is_view(node):
        return False
    source = next(iter(node.inputs()))
    others = [use.user for use in source.uses() if use.user != node]
    same_block = source.node().owningBlock() == node.owningBlock()
    return same_block and all(user.kind() in _MEASURES for user in others) and is_only_view(source)


def is_view(node: tp.Node) -> bool:
    """Whether the one tensor that an operator gives can share memory with its first argument alone."""
    schema = tp.schema(node)
    if schema is None or node.outputsSize() != 1 or tp.written_to(node):
        return False
    if any(value.type().kind() != "TensorType" for value in (node.output(), next(iter(node.inputs())))):
        return False
    shared = [argument.alias_info is not None for argument in schema.arguments]
    return node.kind() in _GIVE_THEIR_INPUT or (shared[0] and not any(shared[1:]))


def _is_all_that_reads(unpack: tp.Node) -> bool:
    split = unpack.input().node()
    if split.kind() not in _SPLITS or len(split.output().uses()) != 1:
        return False
    tensor = next(iter(split.inputs()))
    return len(tensor.uses()) == 1 and is_only_view(tensor)


def makes_new(node: tp.Node) -> bool:
    """Whether what an operator gives is in memory of its own."""
    schema = tp.schema(node)
    if schema is None or node.kind() in _GIVE_THEIR_INPUT | _SPLITS:
        return False
    return all(value.alias_info is None for value in (*schema.arguments, *schema.returns))


def is_write(node: tp.Node) -> bool:
    """Whether an operator changes its first argument, and nothing else, and gives it back."""
    schema = tp.schema(node)
    if schema is None or not node.kind().endswith("_") or node.outputsSize() != 1:
        return False
    first, *others = [a.alias_info is not None and a.alias_info.is_write for a in schema.arguments]
    return first and not any(others)


def _settle(graph: tp.Graph, piece: tp.Value) -> bool:
    """Follows a piece through its block: each write makes a new value, which all that comes later reads.

    Tells whether that could be done.
    """
    block = piece.node().owningBlock()
    order = {node: place for place, node in enumerate([*block.nodes(), block.returnNode()])}
    same, users = {piece.debugName()}, {use.user for use in piece.uses()}
    pending = [node for node in users if _writes(node, same)]
    writes = set(pending)
    while pending:
        result = pending.pop().output()
        same.add(result.debugName())
        new = {use.user for use in result.uses()} - users
        users |= new
        pending += [node for node in new if _writes(node, same)]
        writes |= set(pending)
    if not writes or not users <= order.keys():
        return False
    last = max(order[node] for node in writes)
    passing = all(node in writes or order[node] > last or _keeps_nothing_of(node, same) for node in users)
    if not passing or not all(map(has_twin, writes)):
        return False
    _rewrite(graph, piece, same, sorted(users, key=order.__getitem__), writes)
    return True


def _keeps_nothing_of(node: tp.Node, values: set[str]) -> bool:
    """Whether what an operator gives shares no memory with any of some values among its arguments."""
    if makes_new(node):
        return True
    schema = tp.schema(node)
    if schema is None or node.kind() in _GIVE_THEIR_INPUT | _SPLITS:
        return False
    given = zip(node.inputs(), schema.arguments, strict=False)
    return all(argument.alias_info is None for value, argument in given if value.debugName() in values)


def _writes(node: tp.Node, same: set[str]) -> bool:
    return is_write(node) and next(iter(node.inputs())).debugName() in same


def has_twin(node: tp.Node) -> bool:
    """Whether there is an operator without the underscore that takes the same arguments."""
    schema = tp.schema(node)
    assert schema is not None
    kind = node.kind().removesuffix("_")
    if kind.removeprefix("aten::") in in_place.OTHERWISE_ORDERED:
        return False
    return schema.overload_name in tp.overloads(kind)


def _rewrite(graph: tp.Graph, piece: tp.Value, same: set[str], users: list[tp.Node], writes: set[tp.Node]) -> None:
    now = piece
    for node in users:
        for offset, value in enumerate(list(node.inputs())):
            if value.debugName() in same:
                node.replaceInput(offset, now)
        if node in writes:
            now = twin(graph, node, piece)
    for node in reversed(users):
        if node in writes:
            node.destroy()


def twin(graph: tp.Graph, node: tp.Node, piece: tp.Value) -> tp.Value:
    """The result of the functional operator, in the dtype that the piece had."""
    kind = node.kind().removesuffix("_")
    made = tp.insert(graph, kind, tp.inputs_of(node), node)
    several = sum(value.type().kind() == "TensorType" for value in node.inputs()) > 1
    if not several and kind.removeprefix("aten::") not in in_place.OF_OTHER_TYPE:
        return made
    return tp.insert(graph, "aten::type_as", [made, piece], node)
