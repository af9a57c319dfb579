"""Translations of the TorchScript exporter that give wrong numbers without failing.

Each of these operators is exported as itself, for a rule of our own to lower or for PyTorch to run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from bridge import torch_private as tp
from bridge.frontend.facts import Facts

_ALWAYS = {
    "aten::index_add",  # duplicate indices are lost
    "aten::scatter_reduce",  # include_self=False is ignored
    "aten::bucketize",
    "aten::softplus",  # threshold is ignored
    "aten::cdist",  # NaN at distance zero
    "aten::pairwise_distance",  # eps is added to the exponent; a vector's distance keeps an axis
    "aten::cosine_similarity",  # bounds the product of the norms; the axis of broadcast tensors is miscounted
    "aten::clamp_max", "aten::clamp_min",  # a tensor as the bound ends the export, and infinity becomes finite
    "aten::hardshrink", "aten::softshrink",  # NaN becomes zero
    "aten::atan2",  # NaN at the origin and between infinities
    "aten::floor_divide",  # rounds towards zero, and the quotient before it
    # rounds towards zero up to torch 2.9; TensorRT 10.6 drops what it takes off negative numbers
    "aten::__rshift__", "aten::bitwise_right_shift",
    "aten::sign", "aten::sgn",  # NaN has the sign 0
    "aten::log_sigmoid", "aten::binary_cross_entropy_with_logits",  # infinite where the sigmoid is rounded to zero
    "aten::kl_div",  # nothing where the target is negative
    "aten::log1p", "aten::expm1", "aten::erfc",  # lose what is small beside one
    "aten::log2", "aten::log10",  # a little less than a whole number at powers, which rounding down shows
    "aten::diagonal",  # multiplies by a mask, and infinity times zero is NaN; only float32
    "aten::embedding_bag",  # a loop of sums that ONNX Runtime cannot run
}  # fmt: skip
_ON_INTEGERS = {"aten::div", "aten::remainder", "aten::fmod"}  # rounds towards zero
_ADDED_PRODUCTS = {"aten::addmm", "aten::baddbmm", "aten::addbmm", "aten::addmv", "aten::addr"}
_CONVOLUTIONS = {f"aten::{name}{rank}d" for name in ("conv", "conv_transpose") for rank in (1, 2, 3)}
_OUTER = {"aten::outer", "aten::ger"}
_BITWISE = {f"aten::{name}" for op in ("and", "or", "xor") for name in (f"__{op}__", f"bitwise_{op}")}
_WIDENED = {"aten::softmax", "aten::log_softmax", "aten::linalg_vector_norm"}  # rounded first where dtype is wider
_ROOTS = (0.5, -0.5)
_VARIANCES = {"aten::var", "aten::std", "aten::var_mean", "aten::std_mean"}
_BY_ORDER = {  # NaN is left open, which PyTorch puts above all numbers and makes the result of maxima and minima
    "aten::argmax", "aten::argmin", "aten::max", "aten::min", "aten::amax", "aten::amin", "aten::aminmax",
    "aten::sort", "aten::argsort", "aten::msort", "aten::topk",
}  # fmt: skip
_ROUNDING = {"aten::fake_quantize_per_tensor_affine", "aten::fake_quantize_per_channel_affine"}
_NORMS = {"aten::layer_norm", "aten::instance_norm"}
_FINE_POOL = {"aten::adaptive_avg_pool1d", "aten::adaptive_avg_pool2d", "aten::adaptive_avg_pool3d"}


def is_wrong(node: tp.Node, facts: Facts) -> bool:
    """Whether the exporter's own translation of this node is known to be wrong for some inputs."""
    kind = node.kind() if node.kind().endswith("__") else node.kind().removesuffix("_")
    if kind in _FINE_POOL:  # dynamic sizes are frozen
        return not _is_global(node) and not _static(node, facts)
    if kind in ("aten::index_put", "aten::_index_put_impl"):
        accumulate = list(node.inputs())[3]
        return not (tp.is_constant(accumulate) and tp.constant_value(accumulate) is False) or _by_mask(node, facts)
    if kind in ("aten::avg_pool2d", "aten::avg_pool3d"):
        divisor = list(node.inputs())[6]  # is ignored
        return not (tp.is_constant(divisor) and tp.constant_value(divisor) is None)
    if kind in ("aten::any", "aten::all"):
        given = facts.known_kind(next(iter(node.inputs())))  # numbers are rounded to integers and added up
        return given is None or given.dtype is not torch.bool
    if kind in _BY_ORDER:
        return _orders_floats(node, facts)
    if kind in _CONVOLUTIONS:  # without a batch there is no Conv
        given, weight = (facts.known_kind(value) for value in list(node.inputs())[:2])
        return given is None or weight is None or given.rank != weight.rank
    if kind in _OUTER:  # the second takes the type of the first
        left, right = (facts.known_kind(value) for value in list(node.inputs())[:2])
        return left is None or right is None or left.dtype is not right.dtype
    if kind in _BITWISE:  # of truth values and a number are truth values
        given, made = facts.known_kind(next(iter(node.inputs()))), facts.known_kind(node.output())
        return given is None or made is None or given.dtype is not made.dtype
    if kind in _WIDENED and _widens(node, facts):
        return True
    if kind == "aten::linalg_vector_norm":  # a maximum or minimum if infinite
        return not _argument_is(node, "ord", lambda order: abs(order) != math.inf)
    if kind == "aten::einsum":  # ONNX's keeps the axes of an ellipsis
        return not _known(next(iter(node.inputs())), lambda text: "..." not in text or "..." in text.split("->")[-1])
    if kind == "aten::logsumexp":  # of integers is made an integer
        given = facts.known_kind(next(iter(node.inputs())))
        return given is None or not given.dtype.is_floating_point
    if kind == "aten::cumsum":
        given = facts.known_kind(next(iter(node.inputs())))  # only int64 and floating point keep their type
        return given is None or not (given.dtype.is_floating_point or given.dtype is torch.int64)
    if kind == "aten::div" and _gives_floats(node, facts):  # goes through int64, or rounds before it rounds down
        return not _argument_is(node, "rounding_mode", lambda mode: mode is None)
    if kind == "aten::remainder" and _gives_floats(node, facts):  # takes it from a rounded quotient
        return True
    if kind in _ON_INTEGERS:
        return _integers(node, facts)
    if kind == "aten::clamp":  # where one bound is left out, infinity becomes finite; bounds are rounded for integers
        given, left_out = facts.known_kind(next(iter(node.inputs()))), any(map(_is_none, node.inputs()))
        return _gives_floats(node, facts) and (left_out or given is None or not given.dtype.is_floating_point)
    if kind == "aten::pow":  # of -inf, which has no root
        return _gives_floats(node, facts) and _known(
            list(node.inputs())[1], lambda power: type(power) is float and power in _ROOTS
        )
    if kind in _VARIANCES:  # is made an integer; more than there are elements gives negative numbers
        return not _argument_is(node, "correction", lambda number: number in (None, 0, 1))
    if kind in _ADDED_PRODUCTS:  # nothing of a tensor is NaN where that is NaN
        return not _argument_is(node, "beta", lambda beta: beta != 0)
    if kind == "aten::scaled_dot_product_attention":  # a row that sees nothing is NaN; 16 bits become 32 with a mask
        given = facts.known_kind(next(iter(node.inputs())))
        unmasked = _argument_is(node, "attn_mask", lambda mask: mask is None)
        return not unmasked or given is None or given.dtype.itemsize < 4
    if kind == "aten::linspace":  # one step divides by zero
        return not _known(list(node.inputs())[2], lambda steps: steps > 1)
    if kind in ("aten::nll_loss_nd", "aten::cross_entropy_loss"):  # axes are taken for granted, and indices
        given, target = (facts.known_kind(value) for value in list(node.inputs())[:2])
        return given is None or given.rank < 2 or target is None or target.dtype.is_floating_point
    if kind == "aten::logit":  # bounds that cross are applied in another order, and to NaN
        return not _known(list(node.inputs())[1], lambda eps: eps is None)
    if kind == "aten::pad":
        return _pads_otherwise(node, facts)
    if kind in _ROUNDING:  # of sixteen bits by scales of 32; makes integers of zero points
        given, zero_point = (facts.known_kind(list(node.inputs())[place]) for place in (0, 2))
        is_between = zero_point is not None and zero_point.dtype.is_floating_point
        return given is None or given.dtype is not torch.float32 or is_between
    if kind in _NORMS:  # of another type than their weights
        given, *weights = (facts.known_kind(value) for value in list(node.inputs()) if _is_tensor(value))
        return given is None or any(weight is None or weight.dtype is not given.dtype for weight in weights)
    if kind == "aten::scatter" and len(list(node.inputs())) == 4:  # of a source larger than the index
        index, source = (facts.sizes(value) for value in list(node.inputs())[2:])
        return source is None or (source != () and (source != index or None in source))
    return kind in _ALWAYS


def _widens(node: tp.Node, facts: Facts) -> bool:
    """Whether the result is in a wider floating type than the argument, and used so: not all is rounded back."""
    given, made = facts.known_kind(next(iter(node.inputs()))), facts.known_kind(node.output())
    if given is None or made is None:
        return True
    if given.dtype is made.dtype or not given.dtype.is_floating_point:
        return False
    readers = [use.user for use in node.output().uses()]
    back = [facts.known_kind(user.output()) for user in readers if user.kind() in ("aten::to", "aten::type_as")]
    return len(back) < len(readers) or any(kind is None or kind.dtype is not given.dtype for kind in back)


def _is_tensor(value: tp.Value) -> bool:
    return bool(value.type().kind() == "TensorType")


def _is_none(value: tp.Value) -> bool:
    return bool(value.type().kind() == "NoneType")


def _pads_otherwise(node: tp.Node, facts: Facts) -> bool:
    """Negative padding, which crops, of any mode but constants; padding that goes round without a batch."""
    given, pads, mode, *_ = node.inputs()
    if _known(mode, lambda text: text == "constant"):
        return False
    known = facts.known_kind(given)
    batched = known is not None and _known(pads, lambda sizes: len(sizes) // 2 + 2 == known.rank)
    return not _known(pads, lambda sizes: min(sizes) >= 0) or not (batched or _known(mode, lambda t: t != "circular"))


def _orders_floats(node: tp.Node, facts: Facts) -> bool:
    schema, given = tp.schema(node), facts.known_kind(next(iter(node.inputs())))
    of_two = schema is not None and schema.overload_name == "other"  # element by element, NaN is NaN
    return not of_two and (given is None or given.dtype.is_floating_point)


def _gives_floats(node: tp.Node, facts: Facts) -> bool:
    made = facts.known_kind(node.output())
    return made is not None and made.dtype.is_floating_point


def _known(value: tp.Value, holds: Callable[[Any], bool]) -> bool:
    """Whether a value is a constant of which something holds; also a list of such."""
    if tp.is_constant(value):
        return holds(tp.constant_value(value))
    items = list(value.node().inputs()) if value.node().kind() == "prim::ListConstruct" else []
    return bool(items) and all(map(tp.is_constant, items)) and holds([tp.constant_value(item) for item in items])


def _argument_is(node: tp.Node, name: str, holds: Callable[[Any], bool]) -> bool:
    """Whether something holds of an argument that is a constant; also where the overload has no such argument."""
    schema = tp.schema(node)
    assert schema is not None
    named = {a.name: value for a, value in zip(schema.arguments, node.inputs(), strict=False)}
    return name not in named or _known(named[name], holds)


def _by_mask(node: tp.Node, facts: Facts) -> bool:
    """Writing to the places of a mask: rows of values are taken for one value a place."""
    _, indices, values, *_ = node.inputs()
    if indices.node().kind() != "prim::ListConstruct":
        return True
    given = [facts.known_kind(index) for index in indices.node().inputs() if index.type().kind() == "TensorType"]
    value = facts.known_kind(values)
    return any(g is None or g.dtype is torch.bool for g in given) and (value is None or value.rank > 0)


def _is_global(node: tp.Node) -> bool:
    """Pooling to one element is the same at every size."""
    size = list(node.inputs())[1]
    if tp.is_constant(size):
        return all(item == 1 for item in tp.constant_value(size))
    return size.node().kind() == "prim::ListConstruct" and all(
        tp.is_constant(v) and tp.constant_value(v) == 1 for v in size.node().inputs()
    )


def _static(node: tp.Node, facts: Facts) -> bool:
    sizes = facts.sizes(next(iter(node.inputs())))
    wanted = list(node.inputs())[1]
    rank = {"aten::adaptive_avg_pool1d": 1, "aten::adaptive_avg_pool2d": 2, "aten::adaptive_avg_pool3d": 3}[node.kind()]
    return sizes is not None and None not in sizes[-rank:] and tp.is_constant(wanted)


def _integers(node: tp.Node, facts: Facts) -> bool:
    if node.kind() == "aten::div" and len(list(node.inputs())) < 3:
        return False
    tensors = [facts.known_kind(v) for v in node.inputs() if v.type().kind() == "TensorType"]
    output = facts.known_kind(node.output())
    whole = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
    return output is not None and output.dtype in whole and bool(tensors) and output.rank != 0
