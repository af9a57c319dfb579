"""Arithmetic on axes and sizes that are only known at run time, in vectors: TensorRT computes these on the host."""

from __future__ import annotations


def not_negative(op, axes, rank):
    """The axes counted from the front."""
    return op.Where(op.Less(axes, 0), op.Add(axes, rank), axes)


def size_at(op, data, axis):
    """The size of one axis, a vector of one element."""
    return op.Shape(data, start=axis, end=axis + 1) if op.opset >= 15 else op.Gather(op.Shape(data), [axis])


def membership(op, axes, rank):
    """For every axis of a tensor, a vector of one element: 1 when it is among `axes`, 0 when it is not."""
    front = not_negative(op, axes, rank)
    return [op.ReduceMax(op.Cast(op.Equal(front, [i]), to=7), keepdims=1) for i in range(rank)]


def kept_sizes(op, data, member, count):
    """The sizes of the `count` axes that are not members, in order: a vector."""
    sizes = [size_at(op, data, i) for i in range(len(member))]
    keep = [op.Sub([1], m) for m in member]
    place = [op.constant([0])]
    for k in keep:
        place.append(op.Add(place[-1], k))
    return op.Concat(*(_at(op, j, sizes, keep, place) for j in range(count)), axis=0) if count else op.constant([])


def _at(op, position, sizes, keep, place):
    """The size of the kept axis at a position."""
    total = op.constant([0])
    for size, kept, found in zip(sizes, keep, place, strict=False):
        here = op.Cast(op.Equal(found, [position]), to=7)
        total = op.Add(total, op.Mul(size, op.Mul(kept, here)))
    return total
