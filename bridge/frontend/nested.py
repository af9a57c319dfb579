"""Nested tensors inside encoders: padded tensors and their mask, which is what the encoders were given.

In evaluation `nn.TransformerEncoder` packs what a padding mask leaves, and pads what its layers make of it; a trace
holds that. No compiler takes nested tensors, and layers that are given the mask compute the same of the padded ones.
"""

from __future__ import annotations

from bridge import torch_private as tp

_LAYER = "aten::_transformer_encoder_layer_fwd"


def settle(graph: tp.Graph) -> None:
    """Replaces nested tensors that only encoder layers read, until they are padded again to the size they had.

    What was padding is zero then, as it is in eager PyTorch where every row begins with what its mask lets through.

    Source: torch.nn.TransformerEncoder.forward, PyTorch's native/nested/NestedTensorTransformerFunctions.cpp.
    """
    for node in [node for node in tp.walk(graph) if node.kind() == "aten::_nested_tensor_from_mask"]:
        padded, mask, *_ = node.inputs()
        layers, ends = _readers(node)
        if ends and all(_is_padded_to(end, padded) for end in ends):
            _pad(graph, node, padded, mask, layers, ends)


def _readers(node: tp.Node) -> tuple[list[tp.Node], list[tp.Node]]:
    """The encoder layers that a nested tensor goes through, and what pads it; nothing where others read it too."""
    layers: list[tp.Node] = []
    ends: list[tp.Node] = []
    pending = [node]
    while pending:
        for use in pending.pop().output().uses():
            user = use.user
            if user.kind() == _LAYER and use.offset == 0 and _is_without_mask(user):
                layers.append(user)
                pending.append(user)
            elif user.kind() == "aten::to_padded_tensor":
                ends.append(user)
            else:
                return [], []
    return layers, ends


def _is_without_mask(layer: tp.Node) -> bool:
    mask, kind = list(layer.inputs())[-2:]
    return all(tp.is_constant(value) and tp.constant_value(value) is None for value in (mask, kind))


def _is_padded_to(end: tp.Node, tensor: tp.Value) -> bool:
    """Whether ``to_padded_tensor`` gives the size of another tensor."""
    size = list(end.inputs())[2].node()
    if size.kind() == "aten::size":
        return size.inputsSize() == 1 and size.input() == tensor
    if size.kind() != "prim::ListConstruct":
        return False
    for place, value in enumerate(size.inputs()):
        read = list(value.node().inputs()) if value.node().kind() == "aten::size" else []
        if len(read) != 2 or read[0] != tensor or not tp.is_constant(read[1]) or tp.constant_value(read[1]) != place:
            return False
    return size.inputsSize() == 3


def _is_aligned(graph: tp.Graph, mask: tp.Value, before: tp.Node) -> tp.Value:
    """Whether all rows of a mask begin with what they let through: only then are encoders given nested tensors."""

    def number(value: int | None) -> tp.Value:
        return tp.constant(graph, value, before)

    def new(kind: str, *inputs: tp.Value) -> tp.Value:
        return tp.insert(graph, kind, inputs, before)

    first = new("aten::slice", mask, number(1), number(None), number(-1), number(1))
    second = new("aten::slice", mask, number(1), number(1), number(None), number(1))
    gap = new("aten::__and__", second, new("aten::logical_not", first))
    return new("aten::logical_not", new("aten::any", gap))


def _pad(
    graph: tp.Graph, node: tp.Node, padded: tp.Value, mask: tp.Value, layers: list[tp.Node], ends: list[tp.Node]
) -> None:
    blocked = tp.insert(graph, "aten::logical_not", [mask], node)
    filled = tp.insert(graph, "aten::__and__", [blocked, _is_aligned(graph, mask, node)], node)
    for layer in layers:
        place = layer.inputsSize() - 2
        layer.replaceInput(place, blocked)
        layer.replaceInput(place + 1, tp.constant(graph, 1, layer))  # a mask over the keys of each sequence
    for end in ends:
        nested, padding, _ = end.inputs()
        rows = tp.insert(graph, "aten::unsqueeze", [filled, tp.constant(graph, -1, end)], end)
        end.output().replaceAllUsesWith(tp.insert(graph, "aten::masked_fill", [nested, rows, padding], end))
    node.output().replaceAllUsesWith(padded)
    for unused in (*ends, node):
        unused.destroy()
