"""Operators of PyTorch that no other rule knows: the operator itself, exported alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from rewrites import example, require, tensor, torch_domain
from rewrites.builder import Builder
from rewrites.exporting import WAYS, Exporter, Way, by_torchscript
from rewrites.graph import Value
from rewrites.lowering import Lowering, splice_function
from rewrites.pattern import Match


@lru_cache(maxsize=1)
def decompositions() -> dict[Any, Callable[..., Any]]:
    """Operator -> its meaning in simpler operators, as PyTorch's own compilers use it."""
    from torch import _decomp

    return dict(_decomp.core_aten_decompositions())


def decomposed(function: Callable[..., Any], samples: tuple[Any, ...]) -> Callable[..., Any]:
    """The function with every operator in it decomposed to PyTorch's core operators; sizes are frozen in it."""
    from torch.fx.experimental.proxy_tensor import make_fx

    traced: Callable[..., Any] = make_fx(function, decomposition_table=decompositions())(*samples)
    return traced


def of_vectors(function: Callable[..., Any], samples: tuple[Any, ...]) -> Callable[..., Any]:
    """The function computed with vectors of one element for scalars: ONNX's operators along an axis take no scalars."""
    from torch.utils import _pytree

    shapes = [made.shape for made in _pytree.tree_leaves(function(*samples))]

    def lifted(*given: Any) -> Any:
        made = _pytree.tree_leaves(function(*(x.reshape(1) if x.dim() == 0 else x for x in given)))
        return [m if shape else m.reshape(()) for m, shape in zip(made, shapes, strict=True)]

    return lifted


class AnyOperator(Lowering):
    """torch operator -> its exported graph: as it is or decomposed, by whichever exporter gives right numbers.

    Neither of PyTorch's exporters covers all operators, and each gives wrong graphs for some; one operator at a time,
    checked against PyTorch before it is put in, they complete each other.

    Source: torch.onnx's documentation of both exporters, torch._decomp.
    """

    exporting = Exporter(
        (
            *WAYS,
            Way(
                "TorchScript of vectors", by_torchscript, of_vectors, lambda samples: any(not x.shape for x in samples)
            ),
            Way("TorchScript over the decomposition", by_torchscript, decomposed),
        ),
        trusted=False,
    )

    def keys(self) -> Iterable[tuple[str, str]]:
        return [torch_domain.ANY]

    def rewrite(self, op: Builder, match: Match) -> Any:
        call = torch_domain.decode(match.bound["node"])
        overload = overload_of(call.schema)
        require(overload is not None, f"PyTorch has no operator {call.schema.namespace}::{call.schema.operator} here")
        require_pure(overload, call.arguments)
        given = {a.name: a.default for a in call.schema.arguments if a.default is not torch_domain.REQUIRED}
        arguments = {name: plain(value, name, call) for name, value in {**given, **call.arguments}.items()}
        seen = torch_domain.seen_shapes(match.bound["node"])
        return splice_function(op, self.exporting, overload, arguments, seen=seen)


def plain(value: Any, name: str, call: torch_domain.Call) -> Any:
    """The argument as PyTorch takes it: values where tensors are asked for, numbers elsewhere."""
    kind = next((a.type for a in call.schema.arguments if a.name == name), "Tensor")
    if isinstance(value, list):
        return [plain(v, name, call) for v in value]
    if not isinstance(value, Value) or "Tensor" in kind:
        return value
    number = value.constant
    require(number is not None and number.size == 1, f"the argument {name} is not known before the model runs")
    return number.item()


def overload_of(schema: torch_domain.Schema) -> Any:
    """The operator that a schema names, or None."""
    import torch

    packet = getattr(getattr(torch.ops, schema.namespace, None), schema.name, None)
    return getattr(packet, schema.overload or "default", None)


def require_pure(overload: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse operators that write into their arguments, draw random numbers, or give what is not a tensor."""
    import torch

    schema = overload._schema
    require(not schema.is_mutable, "it writes into its arguments")
    off = any(arguments.get(name, True) in (False, 0) for name in ("train", "dropout_p", "dropout"))
    random = torch.Tag.nondeterministic_seeded in overload.tags and not off
    require(not random, "it draws random numbers, which stay in PyTorch")
    backward = "backward" in schema.name and any(is_integer(value) for value in arguments.values())
    require(not backward, "it does not check its indices, so it cannot be tried on examples")
    returns = [str(r.type) for r in schema.returns]
    require(returns and all(r in ("Tensor", "List[Tensor]") for r in returns), "its result is not a tensor")


def is_integer(value: Any) -> bool:
    """Whether an argument is a tensor of integers."""
    return isinstance(value, Value) and value.dtype.kind in "iu"


any_operator = AnyOperator(
    "torch/any-operator",
    AnyOperator,
    needed_by={"any": "all versions"},
    priority=10**6,
    examples=[
        example(op_type="aten::heaviside", self=("n", 3), values=(3,)),
        example(op_type="aten::xlogy", self=(1, 3), other=tensor("n", 3, low=0.1, high=2.0)),
        example(op_type="aten::logaddexp2", self=(2, "n"), other=(2, "n")),
        example(op_type="aten::adaptive_avg_pool2d", self=(1, 2, 10, 9), output_size=[4, 4]),
    ],
    refuses=[
        example(op_type="aten::bernoulli", self=tensor(2, 3, low=0.0, high=1.0), because="random numbers"),
        example(op_type="aten::median", self=(2, "n"), because="no exporter gives a right graph"),
        example(op_type="aten::adaptive_avg_pool2d", self=(1, 2, "h", "w"), output_size=[4, 4], because="DESIRED"),
    ],
)
