"""Sizes that a trace may have frozen: numbers in its graph that equal a dimension which may vary.

``int(x.shape[0])``, ``len(x)`` and loops over a tensor leave a number in a trace, or as many copies of a loop's body,
and nothing that tells them from numbers that are meant. So these are suspects, except where the nn.Module is given:
then its own results at other sizes decide (`bridge.frontend.eager`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bridge import torch_private as tp
from bridge.frontend.facts import Facts
from bridge.frontend.provenance import TAG, Provenance, is_traced

_RESHAPES = {"aten::view", "aten::reshape", "aten::_unsafe_view", "aten::unflatten"}
_MAKES = {
    "aten::zeros", "aten::ones", "aten::full", "aten::empty", "aten::rand", "aten::randn", "aten::arange", "aten::eye",
    "aten::new_zeros", "aten::new_ones", "aten::new_full", "aten::new_empty",
}  # fmt: skip
_FORMS = {**dict.fromkeys(_RESHAPES, "shape"), "aten::expand": "shape", "aten::repeat": "count", "aten::tile": "count"}


@dataclass(frozen=True)
class Suspect:
    """A number that may be the size of the example that was traced.

    Attributes:
        identity: of the node that holds it.
        size: the number, in elements.
        told: what the node does with it.
    """

    identity: int
    size: int
    told: str


def makers(graph: tp.Graph) -> list[tuple[int, int]]:
    """(identity, number) of what makes tensors of a size that is written in a trace; before such are folded."""
    found = []
    for node in tp.walk(graph):
        if node.kind() in _MAKES and node.hasAttribute(TAG) and is_traced(node):
            numbers = [n for value in list(node.inputs())[:3] for n in _numbers(value)]
            found += [(node.i(TAG), number) for number in numbers if number is not None and number > 1]
    return found


def suspects(graph: tp.Graph, facts: Facts, made: list[tuple[int, int]]) -> list[Suspect]:
    """The suspects of a traced graph.

    Args:
        made: as `makers` found them before folding.
    """
    varying = _varying_inputs(graph, facts)
    found = [Suspect(i, number, f"makes a tensor of size {number}") for i, number in made if number in varying]
    taken: dict[tuple[str, int], list[tp.Node]] = {}
    for node in tp.walk(graph) if varying else ():
        if not is_traced(node):
            continue
        if node.kind() in _FORMS:
            found += _shaped(node, facts, varying)
        elif node.kind() in ("aten::slice", "aten::unbind"):
            found += _cut(node, facts)
        elif node.kind() == "aten::select" and _axis(node, facts) is not None:
            tensor, dim = list(node.inputs())[:2]
            taken.setdefault((tensor.debugName(), tp.constant_value(dim)), []).append(node)
    found += [suspect for nodes in taken.values() for suspect in _unrolled(nodes, facts)]
    return found


def warnings(found: list[Suspect], table: Provenance) -> Iterator[str]:
    """One line for each place in the user's code."""
    lines: dict[tuple[str, str], str] = {}
    for suspect in found:
        origin = table[suspect.identity]
        lines.setdefault((origin.operator, origin.source), f"{origin} {suspect.told}")
    return iter(lines.values())


def _varying_inputs(graph: tp.Graph, facts: Facts) -> set[int]:
    """The example's sizes, above 1, of dimensions of inputs that may vary."""
    found = set()
    for value in list(graph.inputs())[1:]:
        found |= set(_varying(value, facts).values())
    return found - {0, 1}


def _varying(value: tp.Value, facts: Facts) -> dict[int, int]:
    """The size in the example of each axis of a tensor that may vary."""
    sizes, seen = facts.sizes(value), facts.tensor(value)
    if sizes is None or seen is None or value.type().kind() != "TensorType":
        return {}
    return {axis: seen.shape[axis] for axis, size in enumerate(sizes) if size is None}


def _numbers(value: tp.Value) -> list[int | None]:
    """The integers of a constant or a list, None for each that is computed."""
    if tp.is_constant(value):
        held = tp.constant_value(value)
        items = held if isinstance(held, list) else [held]
        return [item if isinstance(item, int) and not isinstance(item, bool) else None for item in items]
    made = value.node()
    if made.kind() == "prim::ListConstruct":
        return [number for item in made.inputs() for number in (_numbers(item) if tp.is_constant(item) else [None])]
    return [None]


def _shaped(node: tp.Node, facts: Facts, varying: set[int]) -> Iterator[Suspect]:
    """A new shape of numbers only, one of them a size that varies: of this tensor, at this axis or without a -1."""
    tensor, *rest = node.inputs()
    numbers = [n for value in rest[:1] for n in _numbers(value)]
    own = _varying(tensor, facts)
    if None in numbers or (node.kind() in _RESHAPES and not own):
        return
    for axis, number in enumerate(numbers):
        at_its_place = own.get(axis) == number or -1 not in numbers
        wanted = number in own.values() and at_its_place if node.kind() in _RESHAPES else number in varying
        if number is not None and number > 1 and wanted:
            yield Suspect(node.i(TAG), number, f"is given the {_FORMS[node.kind()]} {numbers}")
            return


def _axis(node: tp.Node, facts: Facts) -> int | None:
    """The example's size, above 1, of the axis that a node works along, if it may vary."""
    tensor, dim = list(node.inputs())[:2]
    seen = facts.tensor(tensor)
    if not tp.is_constant(dim) or seen is None or not seen.rank:
        return None
    size = _varying(tensor, facts).get(tp.constant_value(dim) % seen.rank, 0)
    return size if size > 1 else None


def _cut(node: tp.Node, facts: Facts) -> Iterator[Suspect]:
    size = _axis(node, facts)
    if size is None:
        return
    if node.kind() == "aten::unbind":
        yield Suspect(node.i(TAG), size, f"is taken apart into {size}")
    elif size in _numbers(list(node.inputs())[3]):
        yield Suspect(node.i(TAG), size, f"ends at {size}")


def _unrolled(nodes: list[tp.Node], facts: Facts) -> Iterator[Suspect]:
    """Every element of an axis by its number: a loop over it."""
    size = _axis(nodes[0], facts)
    indices = {n for node in nodes for n in _numbers(list(node.inputs())[2]) if n is not None}
    if size is not None and indices >= set(range(size)):
        yield Suspect(nodes[0].i(TAG), size, f"and its like take each of {size} elements")
