"""Single operators, traced, beside eager PyTorch: what an exporter or a rule once got wrong, or no engine took."""

import pytest
import torch
from torch.nn import functional as F

import bridge


def _x(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + len(shape)))


def _labels(*values: int) -> torch.Tensor:
    return torch.tensor(values)


WHOLE = {
    "unbatched adaptive pooling": (lambda x: F.adaptive_avg_pool2d(x, (None, 7)), _x(8, 8, 8)),
    "variance with a fraction as correction": (lambda x: torch.var(x, dim=1, correction=1.3), _x(5, 4)),
    "variance of all, an axis kept": (lambda x: torch.std_mean(x, correction=0, keepdim=True), _x(2, 3, 4)),
    "floor division of negative numbers": (lambda x, y: torch.floor_divide(x, y), _x(5, 3), _x(3)),
    "logit with bounds that cross": (lambda x: torch.logit(x, 0.6), _x(5, 3).sigmoid()),
    "cropping where padding repeats": (lambda x: F.pad(x, (-1, 2), mode="replicate"), _x(2, 3, 6)),
    "cropping where padding goes round": (lambda x: F.pad(x, (-1, 1, -2, 1), mode="circular"), _x(1, 3, 4, 4)),
    "logarithm of a scalar": (lambda x: torch.log10(x), _x().abs()),
    "addcmul of scalars": (lambda x, y, z: torch.addcmul(x, y, z), _x(), _x(), _x()),
    "scattering into a scalar": (lambda x, y: x.scatter_add(0, torch.tensor(0), y), _x(), _x()),
    "dilated transposed convolution, output padded": (
        lambda x, w: F.conv_transpose1d(x, w, stride=2, padding=1, output_padding=3, dilation=4),
        _x(1, 2, 5), _x(2, 3, 2),
    ),
    "loss of one vector": (lambda x, y: F.nll_loss(x, y), _x(3), torch.tensor(1)),
    "cosine similarity of broadcast tensors": (
        lambda x, y: F.cosine_similarity(x, y, dim=-2),
        _x(1, 2, 3), _x(2, 1, 3),
    ),
    "cosine similarity of long and of short vectors": (
        lambda x, y: (F.cosine_similarity(x * 1e10, y * 1e10), F.cosine_similarity(x * 1e-5, y * 1e-6)),
        _x(3, 4), _x(4, 3).t(),
    ),
    "logarithm and exponential beside one": (
        lambda x: (torch.log1p(x * 1e-8) * 1e8, torch.expm1(x * 1e-8) * 1e8),
        torch.tensor([1.0, -2.5, 0.3]),
    ),
    "whole logarithms": (
        lambda x, y: (torch.log2(x).floor(), torch.log10(y).floor()),
        torch.tensor([8.0, 32768.0, 2.0**-13, 2.0**29]), torch.tensor([10.0, 1e3, 1e-3, 1e5]),
    ),
    "distance to itself": (lambda x: F.pairwise_distance(x, x) * 1e6, _x(3, 4)),
    "a product added to what is not read": (
        lambda x, y: torch.baddbmm(torch.full((1, 2, 3), float("nan")), x, y, beta=0, alpha=0.5),
        _x(1, 2, 4), _x(1, 4, 3),
    ),
    "one step of linspace": (lambda x: torch.linspace(x[0].item(), 3.0, 1) + x, _x(4)),
    "numbers in parts": (torch.frexp, torch.tensor([1.4e-45, 0.0, -8.0, float("inf"), float("-inf"), 0.7])),
    "bags whose padding is the last row": (
        lambda w, i, o: F.embedding_bag(i, w, o, mode="sum", padding_idx=-1),
        _x(5, 3), _labels(4, 1, 1, 0, 4, 4), _labels(0, 3),
    ),
    "attention for the CPU": (
        lambda q, k, v: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0],
        _x(1, 2, 3, 4), _x(1, 2, 3, 4), _x(1, 2, 3, 4),
    ),
    "two arguments of one name": (F.triplet_margin_with_distance_loss, _x(4, 3), _x(4, 3), _x(4, 3)),
    "quotients rounded down": (
        lambda x, y: (x // y, x % y, torch.div(x, y, rounding_mode="floor"), x // 0.1),
        torch.tensor([1.0, 0.3, -0.3, -0.5]), torch.tensor([0.1, 0.1, 0.1, -float("inf")]),
    ),
    "quotients of one number": (lambda x: (x // 2, x % 2, torch.floor_divide(x, 3)), torch.tensor(-7)),
    "sums of large exponentials": (torch.logaddexp, torch.tensor([1000.0, -1000.0]), torch.tensor([999.0, -1001.0])),
    "logarithm of a sigmoid near zero": (lambda x: F.logsigmoid(x), torch.tensor([-200.0, -50.0, 0.0, 200.0])),
    "signs": (lambda x: (x.sign(), x.sgn()), torch.tensor([float("nan"), -2.0, 0.0, float("inf")])),
    "logarithm of a sum of whole numbers": (lambda x: x.logsumexp(0), _labels(-4, 1, 2)),
    "whole numbers between fractions": (lambda x: (x.clamp(-1.5, 2.5), x.clamp(max=0.5)), _labels(-4, 0, 9)),
    "a source larger than its index": (
        lambda x, i, y: (x.scatter(1, i, y), x.scatter_add(0, i, y)),
        _x(4, 5), torch.tensor([[0, 2], [1, 1]]), _x(3, 4),
    ),
    "padding that goes round, without a batch": (lambda x: F.pad(x, (1, 2, 2, 1), mode="circular"), _x(3, 4, 5)),
    "losses of certain predictions": (
        lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"),
        torch.tensor([-200.0, 200.0, 90.0]), torch.tensor([0.0, 1.0, 0.0]),
    ),
    "an ellipsis that is summed up": (lambda x, y: torch.einsum("b...,b...->b", x, y), _x(2, 3, 4), _x(2, 3, 4)),
    "a copy into zeros": (lambda x: torch.zeros(3, 4).copy_(x).t_() + 1, _x(3, 4)),
    "large whole numbers added up": (
        lambda x, i: (x.index_add(0, i, x), x.index_put((i,), x, accumulate=True)),
        torch.tensor([2**60 + 1, -(2**40) - 3, 7]), _labels(0, 2, 2),
    ),
    "attention in 16 bits": (
        F.scaled_dot_product_attention,
        *(torch.full((1, 2, 4, 8), number, dtype=torch.bfloat16) for number in (0.0, 1.0, 0.5)),
    ),
    "an outer product of two types": (torch.outer, _labels(3, -2), _x(4)),
    "bits of truth values and a number": (lambda x: ((x > 0) & 2, (x > 0) ^ 3, (x > 0) & (x < 1)), _x(3, 4)),
    "a view": (lambda x: x.view(-1), _x(2, 3)),
    "parts": (lambda x: x.unbind(1), _x(2, 3)),
    "a conversion": (lambda x: x.half(), _x(2, 3)),
}  # fmt: skip
NAN, INF = float("nan"), float("inf")
LARGEST = torch.finfo(torch.float32).max
SOME_NAN = torch.tensor(
    [[1, NAN, 3, NAN], [NAN] * 4, [2, 2, 1, 1], [INF, INF, -INF, -INF], [-INF, NAN, INF, 0], [-INF] * 4, [5, 1, 2, NAN]]
)
WITH_NAN = {
    "argmax": lambda x: x.argmax(1),
    "argmax of all": lambda x: torch.argmax(x, None, True),
    "argmin": lambda x: x.argmin(-2, keepdim=True),
    "argmin of a vector": lambda x: x[0].argmin(0),
    "argmax of a scalar": lambda x: x[0, 1].argmax(),
    "argmax in half precision": lambda x: x.half().argmax(1),
    "max": lambda x: x.max(),
    "min": lambda x: x.min(),
    "max along an axis": lambda x: x.max(1),
    "min along an axis": lambda x: x.min(0, keepdim=True),
    "max of two": lambda x: torch.max(x, x.flip(1)),
    "amax": lambda x: x.amax((0, 1)),
    "amin": lambda x: x.amin(0),
    "aminmax": lambda x: torch.aminmax(x, dim=1),
    "cummax": lambda x: x.cummax(1),
    "topk": lambda x: x.topk(2, 1)[0],
    "smallest of topk": lambda x: x.topk(3, 0, largest=False)[0],
    "sort": lambda x: x.sort(1)[0],
    "descending sort": lambda x: x.sort(0, descending=True)[0],
    "places of a sort": lambda x: x.gather(1, x.argsort(1)),
    "stable sort": lambda x: torch.sort(x, dim=1, stable=True),
    "k-th value": lambda x: x.kthvalue(3, 1)[0],
    "median": lambda x: x.median(1)[0],
    "median of numbers": lambda x: x.nanmedian(1)[0],
    "quantile": lambda x: torch.quantile(x, torch.tensor([0.1, 0.75]), dim=1),
    "quantile of numbers": lambda x: torch.nanquantile(x, 0.4, dim=1),
    "norm of infinite order": lambda x: torch.linalg.vector_norm(x, INF, 1),
    "infinity beside the largest number": lambda x: torch.where(x == 2, LARGEST, x).sort(1)[0],
    "infinity and the largest number in half": lambda x: torch.where(x == 2, 65504.0, x).half().topk(3, 1)[0],
    "places of the greatest to a size": lambda x: F.adaptive_max_pool1d(x.unsqueeze(0), 3, return_indices=True),
    "the greatest of planes to a size": lambda x: F.adaptive_max_pool2d(x.unsqueeze(1), (1, 3)),
    "places of the greatest of windows": lambda x: F.max_pool1d(x.unsqueeze(1), 3, 1, 1, return_indices=True),
    "Bessel functions": lambda x: (torch.special.bessel_j0(x), torch.special.bessel_y1(x), torch.special.i1(x)),
    "trigamma": lambda x: torch.polygamma(1, x + 0.5),
    "cosine similarity": lambda x: F.cosine_similarity(x, x.flip(1)),
    "logarithm of a sum": lambda x: torch.logsumexp(x * 1e3, 1),
    "logarithm of a sum in half": lambda x: torch.logsumexp(x.half() * 100, 0),
    "lower bound": lambda x: x.clamp(min=0.5),
    "lower bound of zero": lambda x: x.clamp_min(0),
    "upper bound": lambda x: x.clamp(max=0.5),
    "unit vectors": F.normalize,
    "hard shrink": F.hardshrink,
    "soft shrink": F.softshrink,
    "angle of a vector": lambda x: torch.atan2(x, x.flip(1)),
    "angle of the origin": lambda x: torch.atan2(x * 0, x.flip(1) * 0),
    "quotient towards zero": lambda x: torch.div(x * 1e30, 3, rounding_mode="trunc"),
    "root": lambda x: x**0.5,
    "logit": lambda x: torch.logit(x, 0.1),
    "nothing of a logarithm": lambda x: torch.xlogy(x * 0, x.flip(1)),
    "place in sorted numbers": lambda x: torch.searchsorted(torch.tensor([0.0, 1.0, 2.0]), x),
}
IN_PLACE = {
    "numbers of a wider type": (lambda x, y: x.clone().add_(y), lambda x, y: (x * 2).mul_(y) + 1),
    "whole numbers": (lambda x, y: x.int().clone().cumsum_(1), lambda x, y: (x > 0).int().cumsum_(1) + 1),
    "truth values": (lambda x, y: x.clone().gt_(y) + 1, lambda x, y: x.clone().logical_or_(y)),
    "the contrary": (lambda x, y: x.clone().logical_not_(), lambda x, y: y.clone().t().logical_not_() * 2),
    "arguments in another order": (lambda x, y: x.float().abs().polygamma_(1) + 1, lambda x, y: y.abs() * 2),
    "a view": (lambda x, y: (x * 2).view(-1).sub_(y.view(-1)), lambda x, y: x.clone()[:, 1:3].add_(y[:, 1:3])),
}
IN_PYTORCH = {
    "an index that PyTorch does not check": (
        lambda x, g, i: torch.ops.aten.max_pool2d_with_indices_backward(g, x, [2], [2], [0], [1], False, i),
        _x(1, 1, 4, 4), _x(1, 1, 2, 2), torch.tensor([[[[0, 3], [8, 15]]]]),
    ),
    "a product over nothing": (lambda x, y, z: torch.addmm(x, y, z, beta=0.2), _x(5, 10), _x(5, 0), _x(0, 10)),
    "tensors joined into another": (lambda x, y: torch.cat([x, y], out=torch.zeros(5, 4)), _x(3, 4), _x(2, 4)),
    "memory as it lies": (lambda x: (x.t() + 1).as_strided((2, 3), (3, 1)) * 2, _x(3, 4)),
    "sparse matrices": (lambda x, y: torch.sparse.mm(x, y), _x(3, 4).relu().to_sparse_csr(), _x(4, 2)),
    "dropout of everything": (lambda x: F.dropout(x, 1.0, training=True).softmax(-1), _x(3, 4)),
}  # fmt: skip


def _module(function):
    class Operator(torch.nn.Module):
        def forward(self, *tensors):
            return function(*tensors)

    return Operator().eval()


def _compiled(function, inputs, **settings):
    traced = torch.jit.trace(_module(function), tuple(inputs), check_trace=False)
    return bridge.compile(traced, list(inputs), backend="onnxruntime", **settings)


@pytest.mark.parametrize("case", WHOLE.values(), ids=WHOLE)
def test_one_engine_gives_what_pytorch_gives(case) -> None:
    function, *inputs = case
    compiled = _compiled(function, inputs, require_full_compilation=True)
    torch.testing.assert_close(compiled(*inputs), function(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", IN_PYTORCH.values(), ids=IN_PYTORCH)
def test_what_no_engine_takes_stays_in_pytorch(case) -> None:
    function, *inputs = case
    torch.testing.assert_close(_compiled(function, inputs)(*inputs), function(*inputs), rtol=1e-4, atol=1e-5)


class Unbatched(torch.nn.Module):
    def forward(self, x, w):
        return F.conv1d(x, w, None, 2, 2), F.conv_transpose1d(x, w, None, 2)


def test_convolutions_without_a_batch_as_scripted_take_any_weights() -> None:
    inputs, scripted = (_x(3, 6), _x(3, 3, 3)), torch.jit.script(Unbatched().eval())
    compiled = bridge.compile(scripted, list(inputs), backend="onnxruntime", require_full_compilation=True)
    torch.testing.assert_close(compiled(*inputs), scripted(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("functions", IN_PLACE.values(), ids=IN_PLACE)
def test_what_is_written_in_place_keeps_its_type(functions) -> None:
    inputs = _x(3, 4).half(), _x(3, 4).flip(0)
    for function in functions:
        compiled = _compiled(function, inputs, require_full_compilation=True)
        torch.testing.assert_close(compiled(*inputs), function(*inputs), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("function", WITH_NAN.values(), ids=WITH_NAN)
def test_nan_and_infinity_are_what_they_are_in_pytorch(function) -> None:
    traced = torch.jit.trace(_module(function), (SOME_NAN,), check_trace=False)
    rows = bridge.Input(("rows", 4), min_shape=(1, 4), opt_shape=(7, 4), max_shape=(14, 4))
    compiled = bridge.compile(traced, [rows], backend="onnxruntime", require_full_compilation=True)
    for x in (SOME_NAN, SOME_NAN.flip(0, 1), torch.cat([SOME_NAN, SOME_NAN.flip(1)])):
        torch.testing.assert_close(compiled(x), function(x), rtol=1e-4, atol=1e-5, equal_nan=True)


ROUNDED_ONCE = {
    "log sigmoid": F.logsigmoid, "erfc": torch.erfc, "sinc": torch.sinc, "log1p": lambda x: torch.log1p(x / 1024),
    "logaddexp": lambda x: torch.logaddexp(x, -x * 2),
}  # fmt: skip


@pytest.mark.parametrize("function", ROUNDED_ONCE.values(), ids=ROUNDED_ONCE)
def test_results_in_sixteen_bits_are_rounded_once(function) -> None:
    x = torch.tensor([2.5, 1.0, -1.375, 0.3, 7.77, -0.01]).half()
    torch.testing.assert_close(_compiled(function, [x])(x), function(x), rtol=2e-3, atol=1e-7)


def test_no_parser_is_given_the_exponentials_of_large_numbers() -> None:
    traced = torch.jit.trace(_module(lambda x: x.logsumexp(1)), _x(2, 8), check_trace=False)
    operators = [node.op_type for node in bridge.to_onnx(traced, [(2, 8)]).graph.node]
    assert operators.index("Sub") < operators.index("Exp") and "ReduceLogSumExp" not in operators


def test_the_class_with_the_highest_score_takes_few_nodes() -> None:
    traced = torch.jit.trace(_module(lambda x: x.argmax(1)), _x(2, 8), check_trace=False)
    operators = [node.op_type for node in bridge.to_onnx(traced, [(2, 8)]).graph.node]
    assert len(operators) <= 6 and operators.count("ArgMax") == 1 and "TopK" not in operators
