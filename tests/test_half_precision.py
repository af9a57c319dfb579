"""Single operators on tensors of sixteen bits: as near to the result in float64 as eager PyTorch's own is."""

import pytest
import torch
from torch.nn import functional as F

import bridge


def _x(*shape: int, low: float = -3.0, high: float = 3.0) -> torch.Tensor:
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape) + len(shape)))
    return drawn * (high - low) + low


CASES = {
    "a Bessel function": (torch.special.i1, _x(40, low=-11, high=11)),
    "logarithm of gamma near its roots": (torch.lgamma, _x(60, low=-5, high=3)),
    "derivatives of gamma": (lambda x: torch.polygamma(2, x), _x(40, low=0.05, high=5)),
    "incomplete gamma": (torch.special.gammainc, _x(60, low=0.01, high=12), _x(60, low=0.01, high=12).flip(0)),
    "the rest of it": (torch.special.gammaincc, _x(60, low=0.01, high=1), _x(60, low=0.01, high=1).flip(0)),
    "quotient rounded down": (lambda x: torch.floor_divide(x, -0.3), _x(500)),
    "diagonal": (lambda x: x.diagonal(1), _x(4, 5)),
    "sum of the diagonal": (torch.trace, _x(4, 5)),
    "sum to a size": (lambda x: x.sum_to_size(1, 3), _x(4, 3)),
    "loss of ranks": (F.margin_ranking_loss, _x(6), _x(6).flip(0), torch.ones(6)),
    "flash attention for the CPU": (
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
        *(_x(1, 2, 5, 8) * scale for scale in (1, 0.5, 2)),
    ),
}  # fmt: skip
WIDENED = {
    "softmax": lambda x: x.softmax(-1, dtype=torch.float32),
    "logarithm of softmax": lambda x: x.log_softmax(0, dtype=torch.float32),
    "norm": lambda x: torch.linalg.vector_norm(x, 3, dim=1, dtype=torch.float32),
    "largest element": lambda x: torch.linalg.vector_norm(x, float("inf"), dim=1, dtype=torch.float32),
    "sums": lambda x: (x.sum(0, dtype=torch.float32), x.mean(1, dtype=torch.float32), x.cumsum(0, dtype=torch.float32)),
    "weights of experts": lambda x: F.softmax(x, dim=1, dtype=torch.float32).topk(2, 1),
}
SORTED = {
    "sort": lambda x: torch.sort(x, dim=1, descending=True),
    "places": lambda x: x.argsort(0),
    "top": lambda x: x.topk(3, 1),
}


def _traced(function, inputs):
    class Operator(torch.nn.Module):
        def forward(self, *tensors):
            return function(*tensors)

    return torch.jit.trace(Operator().eval(), tuple(inputs), check_trace=False)


def _compiled(function, inputs):
    return bridge.compile(_traced(function, inputs), list(inputs), backend="onnxruntime", require_full_compilation=True)


def _parts(made) -> tuple[torch.Tensor, ...]:
    return made if isinstance(made, tuple) else (made,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_operator_errs_no_more_than_eager(case, dtype) -> None:
    function, *inputs = case
    inputs = [x.to(dtype) for x in inputs]
    found, eager = _parts(_compiled(function, inputs)(*inputs)), _parts(function(*inputs))
    exact = _parts(function(*(x.double() for x in inputs)))
    for ours, theirs, right in zip(found, eager, exact, strict=True):
        assert ours.dtype is theirs.dtype and ours.shape == theirs.shape
        unit = torch.finfo(dtype).eps * right.abs().max()
        error, own = ((x.double() - right).abs().max() for x in (ours, theirs))
        assert error <= 2 * own + unit, f"errs by {error}, eager by {own}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("function", WIDENED.values(), ids=WIDENED)
def test_what_is_computed_in_float32_is_not_rounded_first(function, dtype) -> None:
    x = _x(6, 5).to(dtype)
    for ours, theirs in zip(_parts(_compiled(function, [x])(x)), _parts(function(x)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_softmax_that_is_rounded_back_stays_one_operator(dtype) -> None:
    def function(x):
        return x.softmax(-1, dtype=torch.float32).to(x.dtype) @ x

    x = _x(5, 5).to(dtype)
    torch.testing.assert_close(_compiled(function, [x])(x), function(x), rtol=2e-2, atol=2e-3)
    operators = [node.op_type for node in bridge.to_onnx(_traced(function, [x]), [x]).graph.node]
    assert operators[0] == "Softmax"  # of sixteen bits, as TensorRT's own kernel for attention takes it


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("function", SORTED.values(), ids=SORTED)
def test_what_is_sorted_is_in_an_engine(function, dtype) -> None:
    x = torch.arange(-30, 30).reshape(12, 5)[torch.randperm(12, generator=torch.Generator().manual_seed(0))].to(dtype)
    for ours, theirs in zip(_parts(_compiled(function, [x])(x)), _parts(function(x)), strict=True):
        assert torch.equal(ours, theirs)
