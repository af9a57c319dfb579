"""Layers of two engines matched by where they came from: the user's operators that each computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bridge.compare.alike import alike
from bridge.diff.sides import Layer
from bridge.runtime.record import OriginRecord


@dataclass(frozen=True)
class LayerDiff:
    """Layers of both sides that compute the same operators.

    Attributes:
        origins: the user's operators.
        a, b: the layers that compute them on each side; empty where it has none.
        changes: what differs: "fused differently", "kind", "precision", "only in a", "only in b".
    """

    origins: tuple[OriginRecord, ...]
    a: tuple[Layer, ...]
    b: tuple[Layer, ...]
    changes: tuple[str, ...]

    @property
    def ms(self) -> tuple[float | None, float | None]:
        """Milliseconds on each side; None where a layer of it was not measured."""
        return _total(self.a), _total(self.b)


def _total(layers: Sequence[Layer]) -> float | None:
    times = [layer.ms for layer in layers if layer.ms is not None]
    return sum(times) if times else None


Origins = Mapping[int, OriginRecord]


def paired_origins(a: Origins, b: Origins) -> tuple[dict[int, int], dict[int, int]]:
    """One key for each operator that both sides have, by the identities that it has on either."""
    pairs = list(enumerate(alike(a, b)))
    return {ours: key for key, (ours, _) in pairs}, {theirs: key for key, (_, theirs) in pairs}


def matched(a: Sequence[Layer], b: Sequence[Layer], origins: tuple[Origins, Origins]) -> list[LayerDiff]:
    """Every layer of both sides, grouped with those that share an operator with it, in the order of execution.

    Layers that no operator is known of (copies, reformats) are matched by their kind, in order.
    """
    keys = paired_origins(*origins)
    sides = [[(layer, _keys(layer, keys[i], i)) for layer in layers] for i, layers in enumerate((a, b))]
    groups = _components([set(found) for side in sides for _, found in side])
    rows: dict[int, tuple[list[int], list[int]]] = {}
    for number, group in enumerate(groups):
        which = number >= len(a)
        rows.setdefault(group, ([], []))[which].append(number - len(a) * which)
    found: list[tuple[list[_Known], list[_Known]]] = []
    left: list[tuple[list[_Known], list[_Known]]] = []
    for ours, theirs in rows.values():
        row = [sides[0][i] for i in ours], [sides[1][i] for i in theirs]
        (found if any(known for _, known in (*row[0], *row[1])) else left).append(row)
    made = [_row(ours, theirs, origins) for ours, theirs in found]
    return made + _unknown([row[0][0][0] for row in left if row[0]], [row[1][0][0] for row in left if row[1]])


def _keys(layer: Layer, keys: Mapping[int, int], side: int) -> frozenset[tuple[int, int]]:
    """What a layer computes: keys that both sides know, and identities that only this one does."""
    return frozenset((-1, keys[i]) if i in keys else (side, i) for i in layer.origins)


def _components(sets: Sequence[set[tuple[int, int]]]) -> list[int]:
    """The number of the group of each set; sets that share an element are of one group."""
    group = list(range(len(sets)))

    def root(index: int) -> int:
        while group[index] != index:
            group[index] = index = group[group[index]]
        return index

    first: dict[tuple[int, int], int] = {}
    for index, elements in enumerate(sets):
        for element in elements:
            left, right = root(first.setdefault(element, index)), root(index)
            group[max(left, right)] = min(left, right)
    return [root(index) for index in range(len(sets))]


_Known = tuple[Layer, frozenset[tuple[int, int]]]


def _row(a: list[_Known], b: list[_Known], origins: tuple[Origins, Origins]) -> LayerDiff:
    changes = []
    if not a or not b:
        changes.append("only in b" if not a else "only in a")
    else:
        if Counter(known for _, known in a) != Counter(known for _, known in b):
            changes.append("fused differently")
        elif _words(layer.kind for layer, _ in a) != _words(layer.kind for layer, _ in b):
            changes.append("kind")
        left, right = ({layer.precision for layer, _ in side if layer.precision} for side in (a, b))
        if left and right and left != right:
            changes.append("precision")
    which, side = (0, a) if a else (1, b)
    told = dict.fromkeys(origins[which][i] for layer, _ in side for i in layer.origins if i in origins[which])
    return LayerDiff(tuple(told), tuple(layer for layer, _ in a), tuple(layer for layer, _ in b), tuple(changes))


def _words(kinds: Iterable[str]) -> list[str]:
    return sorted(kinds)


def _unknown(a: Sequence[Layer], b: Sequence[Layer]) -> list[LayerDiff]:
    rows = []
    for kind in dict.fromkeys(layer.kind for layer in (*a, *b)):
        ours, theirs = ([layer for layer in side if layer.kind == kind] for side in (a, b))
        count = min(len(ours), len(theirs))
        rows += [LayerDiff((), (left,), (right,), ()) for left, right in zip(ours, theirs, strict=False)]
        rows += [LayerDiff((), (layer,), (), ("only in a",)) for layer in ours[count:]]
        rows += [LayerDiff((), (), (layer,), ("only in b",)) for layer in theirs[count:]]
    return rows
