"""Operators of two compilations that are the same operator of the user's."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Protocol


class Known(Protocol):
    """Where a node came from: an `Origin`, or the record of one."""

    @property
    def operator(self) -> str: ...
    @property
    def module_path(self) -> str: ...
    @property
    def module_type(self) -> str: ...
    @property
    def source(self) -> str: ...


Origins = Mapping[int, Known]
"""Where each node came from, by its identity."""


def alike(a: Origins, b: Origins) -> list[tuple[int, int]]:
    """The operators that both sides have, each by the identities that it has on either.

    Operators are alike that have one kind and ran in one module of one class; several alike are paired in their order,
    and where one side has more of them, by their source lines.
    """
    groups: list[dict[tuple[str, str, str], list[int]]] = []
    for table in (a, b):
        groups.append({})
        for identity in sorted(table):
            origin = table[identity]
            kind = (origin.operator, origin.module_path, origin.module_type.rpartition(".")[2])
            groups[-1].setdefault(kind, []).append(identity)
    both = [kind for kind in groups[0] if kind in groups[1]]
    return [pair for kind in both for pair in _aligned(groups[0][kind], groups[1][kind], a, b)]


def keys_of(reference: Origins, other: Origins) -> dict[int, int]:
    """The reference's identity of each operator of the other's that both have, by the other's."""
    return {theirs: ours for ours, theirs in alike(reference, other)}


def _aligned(ours: list[int], theirs: list[int], a: Origins, b: Origins) -> list[tuple[int, int]]:
    if len(ours) == len(theirs):
        return list(zip(ours, theirs, strict=True))
    sources = [a[i].source for i in ours], [b[i].source for i in theirs]
    blocks = difflib.SequenceMatcher(None, *sources, autojunk=False).get_matching_blocks()
    return [(ours[block.a + i], theirs[block.b + i]) for block in blocks for i in range(block.size)]
