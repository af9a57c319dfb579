"""Casting to FP16 and BF16: numbers by the ONNX reference evaluator (it does not upcast), types by the checker."""

from __future__ import annotations

import copy
import io
import time
import warnings
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx.reference
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
import torch
from torch import nn

from bridge.errors import SpecError
from bridge.precision import cast, final_layers

HEADER = '<ir_version: 10, opset_import: ["" : {opset}]>\n'


def exported(module: nn.Module, *inputs: torch.Tensor) -> gs.Graph:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), inputs, buffer, dynamo=False, opset_version=18, do_constant_folding=False)
    return gs.import_onnx(onnx.load_from_string(buffer.getvalue()))


def parsed(text: str, opset: int = 20) -> gs.Graph:
    return gs.import_onnx(onnx.parser.parse_model(HEADER.format(opset=opset) + text))


def checked(graph: gs.Graph) -> onnx.ModelProto:
    model = gs.export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    return model


def by_reference(graph: gs.Graph, *inputs: Any) -> list[Any]:
    model = checked(graph)
    feeds = {value.name: np.asarray(x) for value, x in zip(model.graph.input, inputs, strict=True)}
    with np.errstate(all="ignore"):
        return list(onnx.reference.ReferenceEvaluator(model).run(None, feeds))


def by_onnxruntime(graph: gs.Graph, *inputs: Any) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(checked(graph).SerializeToString(), options)
    return list(
        session.run(None, {value.name: np.asarray(x) for value, x in zip(session.get_inputs(), inputs, strict=True)})
    )


def types_of(graph: gs.Graph, operator: str) -> list[Any]:
    nodes = [*graph.nodes, *(node for body in graph.subgraphs(recursive=True) for node in body.nodes)]
    return [np.dtype(node.outputs[0].dtype) for node in nodes if node.op == operator]


def assert_as_good_as_half(module: nn.Module, graph: gs.Graph, *inputs: torch.Tensor, evaluate: Any) -> None:
    """The error against FP32 eager is at most twice that of the module in half precision."""
    with torch.no_grad():
        expected = module(*inputs).numpy()
        half = copy.deepcopy(module).half()(*(x.half() for x in inputs)).float().numpy()
    (found,) = evaluate(graph, *inputs)
    assert found.dtype == np.float32
    tolerance = 2 * np.abs(half - expected).max() + 1e-6
    assert np.abs(found - expected).max() <= tolerance


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, stride=2)
        self.head = nn.Linear(8, 5)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(torch.relu(self.down(x)).mean((2, 3)))


class Attention(nn.Module):
    """A transformer block as written by hand, with a causal mask of the lowest float32."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.norm, self.project = heads, nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out, self.up, self.down = nn.Linear(width, width), nn.Linear(width, 32), nn.Linear(32, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.project(self.norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5
        scores = scores + (1.0 - allowed)[:, None, None] * torch.finfo(torch.float32).min
        y = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width))
        return y + self.down(nn.functional.gelu(self.up(self.norm2(y))))


class RmsNorm(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize("evaluate", [by_reference, by_onnxruntime])
def test_conv_net_is_as_good_as_half_and_folds_its_batch_norm(evaluate: Any) -> None:
    torch.manual_seed(0)
    module, x = ConvNet().eval(), torch.randn(2, 3, 12, 12)
    graph = exported(module, x)
    report = cast(graph, torch.float16)
    assert_as_good_as_half(module, graph, x, evaluate=evaluate)
    assert len(report.folded) == 1 and report.casts == 2
    assert types_of(graph, "Conv") == [np.float16, np.float16]
    assert "float16" in str(report)


@pytest.mark.parametrize("evaluate", [by_reference, by_onnxruntime])
def test_masked_attention_survives_rows_with_nothing_allowed(evaluate: Any) -> None:
    torch.manual_seed(0)
    module, x = Attention().eval(), torch.randn(2, 5, 16)
    allowed = torch.ones(2, 5)
    allowed[0, 3:], allowed[1] = 0, 0
    graph = exported(module, x, allowed)
    cast(graph, torch.float16)
    (found,) = evaluate(graph, x, allowed)
    expected = module(x, allowed).detach().numpy()
    assert np.abs(found - expected).max() < 5e-3
    assert set(types_of(graph, "MatMul")) == {np.dtype(np.float16)}
    assert set(types_of(graph, "Softmax")) == {np.dtype(np.float32)}


def test_minus_infinity_masks_give_the_same_rows() -> None:
    graph = parsed(
        """m (float[2,4] x, bool[2,4] c, float[4,3] w) => (float[2,3] y) {
        low = Constant <value = float {-inf}> ()
        scores = MatMul(x, e)
        masked = Where(c, low, scores)
        p = Softmax(masked)
        y = MatMul(p, w)
    }""".replace("low =", "e = Constant <value = float[4,4] {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}> ()\n        low =")
    )
    x, w = np.random.randn(2, 4).astype(np.float32), np.random.randn(4, 3).astype(np.float32)
    mask = np.array([[0, 0, 1, 1], [0, 1, 0, 1]], dtype=bool)
    (expected,) = by_reference(graph, x, mask, w)
    cast(graph, torch.float16)
    (found,) = by_reference(graph, x, mask, w)
    assert np.isfinite(found).all() and np.abs(found - expected).max() < 5e-3


def test_norms_of_large_values_do_not_overflow() -> None:
    x = torch.randn(2, 64) * 3000
    for module in (RmsNorm(), nn.LayerNorm(64)):
        graph = exported(module, x)
        cast(graph, torch.float16)
        (found,) = by_reference(graph, x)
        assert np.abs(found - module(x).detach().numpy()).max() < 5e-3


def test_softplus_written_out_does_not_overflow() -> None:
    graph = parsed("""m (float[4,4] x, float[4,4] w) => (float[4,4] y) {
        one = Constant <value = float {1.0}> ()
        a = MatMul(x, w)
        b = Exp(a)
        c = Add(b, one)
        d = Log(c)
        y = MatMul(d, w)
    }""")
    x = np.full((4, 4), 30, np.float32)
    report = cast(graph, torch.float16)
    (found,) = by_reference(graph, x, np.eye(4, dtype=np.float32))
    assert np.abs(found - 30).max() < 1e-1
    assert [kept.operator for kept in report.kept] == ["Exp", "Add", "Log"]


def test_lstm_runs_in_half() -> None:
    torch.manual_seed(0)

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(6, 8, batch_first=True, bidirectional=True), nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(x)[0])

    module, x = Tagger().eval(), torch.randn(2, 5, 6)
    graph = exported(module, x)
    cast(graph, torch.float16)
    assert types_of(graph, "LSTM") == [np.float16]
    assert_as_good_as_half(module, graph, x, evaluate=by_onnxruntime)


BRANCHES = """m (float[4,4] x, bool c) => (float[4,4] y) {
    w = Constant <value = float[4] {0.5, 1.0, 2.0, 3.0}> ()
    h = MatMul(x, x)
    r = If (c) <
        then_branch = t () => (float[4,4] a) { p = Mul(h, w)
            q = MatMul(p, h)
            a = Relu(q) },
        else_branch = e () => (float[4,4] b) { s = Softmax(h)
            b = Identity(s) }
    >
    y = MatMul(r, h)
}"""

LOOP = """m (float[4,4] x, int64 n) => (float[4,4] y, float[k,4,4] trace) {
    yes = Constant <value = bool {1}> ()
    h = MatMul(x, x)
    y, trace = Loop (n, yes, h) <
        body = b (int64 i, bool go, float[4,4] state) => (bool again, float[4,4] next, float[4,4] seen) {
            z = MatMul(state, h)
            next = Tanh(z)
            seen = Relu(next)
            again = Identity(go)
        }
    >
}"""


@pytest.mark.parametrize("evaluate", [by_reference, by_onnxruntime])
@pytest.mark.parametrize("taken", [True, False])
def test_branches_are_cast_and_keep_the_types_of_their_results(evaluate: Any, taken: bool) -> None:
    graph = parsed(BRANCHES)
    x = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    expected = evaluate(parsed(BRANCHES), x, taken)[0]
    cast(graph, torch.float16)
    found = evaluate(graph, x, taken)[0]
    assert np.abs(found - expected).max() <= 2e-2 * np.abs(expected).max()
    assert types_of(graph, "MatMul") == [np.float16] * 3


@pytest.mark.parametrize("evaluate", [by_reference, by_onnxruntime])
def test_loop_bodies_are_cast_and_what_they_carry_stays_float32(evaluate: Any) -> None:
    graph = parsed(LOOP)
    x = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32) * 0.3
    expected = evaluate(parsed(LOOP), x, np.int64(3))
    cast(graph, torch.float16)
    body = next(iter(graph.subgraphs()))
    assert [np.dtype(t.dtype) for t in body.outputs[1:]] == [np.float32, np.float32]
    for found, wanted in zip(evaluate(graph, x, np.int64(3)), expected, strict=True):
        assert np.abs(found - wanted).max() < 5e-3
    assert types_of(graph, "MatMul") == [np.float16] * 2


def test_shapes_computed_in_float_and_positions_stay_float32() -> None:
    graph = parsed("""m (float[1,3,h,w] x, float[3,3,1,1] k) => (float[1,3,p,q] y) {
        factor = Constant <value = float[1] {1.7}> ()
        two = Constant <value = int64[1] {2}> ()
        four = Constant <value = int64[1] {4}> ()
        shape = Shape(x)
        sizes = Slice(shape, two, four)
        sizes_f = Cast <to = 1> (sizes)
        scaled = Mul(sizes_f, factor)
        whole = Floor(scaled)
        goal = Cast <to = 7> (whole)
        front = Shape <start = 0, end = 2> (x)
        target = Concat <axis = 0> (front, goal)
        act = Relu(x)
        r = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (act, , , target)
        y = Conv(r, k)
    }""")
    cast(graph, torch.float16)
    assert types_of(graph, "Mul") == types_of(graph, "Floor") == [np.float32]
    assert types_of(graph, "Relu") == types_of(graph, "Resize") == [np.float16]
    (found,) = by_onnxruntime(graph, np.ones((1, 3, 1001, 3), np.float32), np.ones((3, 3, 1, 1), np.float32))
    assert found.shape == (1, 3, 1701, 5)


def test_rotary_positions_keep_their_digits() -> None:
    graph = parsed("""m (int64[n] p, float[n,4] q) => (float[n,4] y) {
        frequencies = Constant <value = float[4] {1.0, 0.1, 0.01, 0.001}> ()
        axis = Constant <value = int64[1] {1}> ()
        column = Unsqueeze(p, axis)
        position = Cast <to = 1> (column)
        angle = Mul(position, frequencies)
        turn = Cos(angle)
        y = Mul(q, turn)
    }""")
    positions = np.array([4001, 30011])
    expected = by_reference(graph, positions, np.ones((2, 4), np.float32))[0]
    cast(graph, torch.float16)
    assert np.abs(by_reference(graph, positions, np.ones((2, 4), np.float32))[0] - expected).max() < 1e-3


def test_constants_that_do_not_fit_keep_their_node() -> None:
    text = """m (float[2] x) => (float[2] y, float[2] z) {
        big = Constant <value = float[2] {1e6, 1.0}> ()
        tiny = Constant <value = float {1e-12}> ()
        a = Mul(x, big)
        y = Sigmoid(a)
        b = Abs(x)
        c = Max(b, tiny)
        z = Div(x, c)
    }"""
    graph = parsed(text)
    report = cast(graph, torch.float16)
    assert {kept.operator for kept in report.kept} >= {"Mul", "Max", "Sigmoid", "Div"}
    x = np.array([0.0, -2.0], np.float32)
    for found, expected in zip(by_reference(graph, x), by_reference(parsed(text), x), strict=True):
        assert np.array_equal(found, expected)


def test_a_constant_used_in_both_types_exists_in_both() -> None:
    graph = parsed(
        """m (float[2,4] x) => (float[2,4] y) {
        w = Constant <value = float[4] {1.0, 2.0, 3.0, 4.0}> ()
        a = LayerNormalization(x, w)
        b = MatMul(a, e)
        y = Mul(b, w)
    }""".replace("w =", "e = Constant <value = float[4,4] {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}> ()\n        w =", 1)
    )
    cast(graph, torch.float16)
    norm = next(node for node in graph.nodes if node.op == "LayerNormalization")
    product = next(node for node in graph.nodes if node.op == "Mul")
    assert norm.inputs[1].dtype == np.float32 and product.inputs[1].dtype == np.float16
    assert by_reference(graph, np.ones((2, 4), np.float32))[0].dtype == np.float32


def test_half_precision_modules_pass_untouched() -> None:
    text = """m (float16[2,4] x) => (float16[2,4] y) {
        f = Cast <to = 1> (h)
        s = Softmax(f)
        g = Cast <to = 10> (s)
        y = Relu(g)
    }""".replace("f =", "h = Relu(x)\n        f =", 1)
    graph = parsed(text)
    report = cast(graph, torch.float16)
    assert report.converted == report.casts == 0
    assert [node.op for node in graph.nodes] == ["Relu", "Cast", "Softmax", "Cast", "Relu"]
    checked(graph)


def test_half_precision_inputs_that_are_cast_at_the_border_do_not_keep_the_graph_in_float32() -> None:
    graph = parsed("""m (float16[2,4] x, float[4,4] w) => (float[2,4] y) {
        f = Cast <to = 1> (x)
        y = MatMul(f, w)
    }""")
    cast(graph, torch.float16)
    assert types_of(graph, "MatMul") == [np.float16]
    checked(graph)


def test_what_a_mixed_module_computes_in_float32_after_half_stays_so() -> None:
    graph = parsed("""m (float16[2,4] x, float16[4,4] w, float[4,4] v) => (float[2,4] y, float[4,4] z) {
        a = MatMul(x, w)
        f = Cast <to = 1> (a)
        y = MatMul(f, v)
        z = MatMul(v, v)
    }""")
    report = cast(graph, torch.float16)
    assert types_of(graph, "MatMul")[1:] == [np.float32, np.float16]
    assert [kept.reason for kept in report.kept] == ["FP32 in the module itself"]
    checked(graph)


def test_large_values_stay_float32_inside_a_loop() -> None:
    text = """m (float[2,2] x, int64 n) => (float[2,2] y) {
        yes = Constant <value = bool {1}> ()
        big = Exp(x)
        last = Loop (n, yes, big) <
            body = b (int64 i, bool go, float[2,2] state) => (bool again, float[2,2] next) {
                next = Add(state, state)
                again = Identity(go)
            }
        >
        y = Log(last)
    }"""
    graph, x = parsed(text), np.full((2, 2), 20, np.float32)
    cast(graph, torch.float16)
    (found,) = by_reference(graph, x, np.int64(3))
    assert np.abs(found - (20 + 3 * np.log(2))).max() < 1e-4


def test_double_and_integers_are_untouched() -> None:
    graph = parsed("""m (double[2,2] x, int64[2,2] i) => (double[2,2] y, int64[2,2] j) {
        y = MatMul(x, x)
        j = Mul(i, i)
    }""")
    assert cast(graph, torch.float16).casts == 0
    checked(graph)


def test_two_kept_neighbours_share_float32_and_an_input_is_cast_once() -> None:
    graph = parsed("""m (float[2,4] x, float[4,4] w) => (float[2,4] y) {
        a = MatMul(x, w)
        b = Softmax(a)
        c = Transpose <perm = [1, 0]> (b)
        d = LogSoftmax(c)
        e = Transpose <perm = [1, 0]> (d)
        f = MatMul(e, w)
        y = Add(f, x)
    }""")
    report = cast(graph, torch.float16)
    assert report.casts == 5  # x and w in, around the softmaxes, y out
    names = [node.name for node in graph.nodes if node.op == "Cast"]
    assert len(set(names)) == 5 and all("/cast/Cast" in name for name in names)


def test_what_the_user_keeps_stays() -> None:
    text = """m (float[2,4] x, float[4,4] w) => (float[2,4] y) {
        a = MatMul(x, w)
        b = Relu(a)
        y = MatMul(b, w)
    }"""
    for keep in ("MatMul", "head/*", lambda node: node.op == "MatMul"):
        graph = parsed(text)
        graph.nodes[0].name, graph.nodes[2].name = "head/aten::mm#0", "head/aten::mm#2"
        cast(graph, torch.float16, keep_fp32=[keep])
        assert types_of(graph, "MatMul") == [np.float32, np.float32]
    graph = parsed(text)
    cast(graph, torch.float16, keep_fp32=[final_layers(graph)])
    assert types_of(graph, "MatMul") == [np.float16, np.float32]


def test_a_residual_stream_that_reaches_the_outputs_is_no_final_layer() -> None:
    graph = parsed("""m (float[2,4] x, float[4,4] w, float[4] one, float[4] zero) => (float[2,4] y, float[2,4] z) {
        a = MatMul(x, w)
        b = Add(x, a)
        c = LayerNormalization(b, one, zero)
        d = MatMul(c, w)
        e = Add(c, d)
        y = LayerNormalization(e, one, zero)
        f = MatMul(b, w)
        z = Softmax(f)
    }""")
    cast(graph, torch.float16, keep_fp32=[final_layers(graph)])
    assert types_of(graph, "MatMul") == [np.float16, np.float32, np.float32]


def test_measured_ranges_keep_what_overflows() -> None:
    graph = parsed("""m (float[2,4] x, float[4,4] w) => (float[2,4] y) {
        a = MatMul(x, w)
        b = Tanh(a)
        y = MatMul(b, w)
    }""")
    cast(graph, torch.float16, ranges={"a": (-1e5, 10.0), "b": (-1.0, 1.0)})
    assert types_of(graph, "MatMul") == [np.float32, np.float16]
    assert types_of(graph, "Tanh") == [np.float32]


def test_bfloat16_needs_an_opset_that_has_it() -> None:
    text = """m (float[1,2,4,4] x, float[2,2,3,3] w) => (float[1,2,2,2] y) {
        a = Conv(x, w)
        y = Relu(a)
    }"""
    old, new = parsed(text, 20), parsed(text, 22)
    report = cast(old, torch.bfloat16)
    assert "Conv takes no bfloat16 at opset 20" in {kept.reason for kept in report.kept}
    assert not cast(new, torch.bfloat16).kept
    for graph in (old, new):
        checked(graph)


def test_other_precisions_are_refused() -> None:
    graph = parsed("m (float[2] x) => (float[2] y) { y = Relu(x) }")
    assert cast(graph, torch.float32).casts == 0
    with pytest.raises(SpecError, match="int8"):
        cast(graph, torch.int8)


def test_unknown_operators_keep_their_inputs() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18, "torch.aten" : 1]>
        m (float[2,4] x) => (float[2,4] y) {
            a = MatMul(x, x)
            b = torch.aten.mystery(a)
            y = MatMul(b, x)
        }"""
    )
    graph = gs.import_onnx(model)
    next(node for node in graph.nodes if node.op == "mystery").outputs[0].dtype = np.dtype(np.float32)
    report = cast(graph, torch.float16)
    assert [kept.reason for kept in report.kept] == ["operator unknown to ONNX"]
    assert types_of(graph, "MatMul") == [np.float16, np.float16]


def test_five_thousand_nodes_take_less_than_two_seconds() -> None:
    x = gs.Variable("x", np.float32, (4, 4))
    nodes, last = [], x
    weight = gs.Constant("w", np.eye(4, dtype=np.float32))
    for index in range(5000):
        out = gs.Variable(f"t{index}", None if index < 4999 else np.dtype(np.float32))
        operator = ("MatMul", "Add", "Softmax", "Relu", "Mul")[index % 5]
        inputs = [last] if operator in ("Softmax", "Relu") else [last, weight if operator == "MatMul" else x]
        nodes.append(gs.Node(operator, f"n{index}", inputs=inputs, outputs=[out]))
        last = out
    graph = gs.Graph(nodes, [x], [last], opset=18)
    start = time.perf_counter()
    cast(graph, torch.float16)
    assert time.perf_counter() - start < 2


GATED = """m (float[n,3,8] x) => (float[n,3,4] y) {
    w = Constant <value = float[8,4] {WEIGHTS}> ()
    a = MatMul(x, w)
    b = HardSwish(a)
    c = Softmax(b)
    y = Mul(c, a)
}""".replace("WEIGHTS", ",".join(["0.5"] * 32))


def layer_types(graph: gs.Graph, batch: int = 2) -> set[str]:
    """Parses and builds the graph, and gives back the types of all layers' outputs."""
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    model = gs.export_onnx(graph)
    onnx.checker.check_model(model)
    assert parser.parse(model.SerializeToString()), parser.get_error(0).desc()
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for index in range(network.num_inputs):
        value = network.get_input(index)
        if value.is_shape_tensor:
            profile.set_shape_input(value.name, [1], [2], [3])
        else:
            profile.set_shape(value.name, *[[batch if size < 0 else size for size in value.shape]] * 3)
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return {layer.get_output(index).dtype.name for layer in layers for index in range(layer.num_outputs)}


@pytest.mark.parametrize("text", [BRANCHES, LOOP, GATED], ids=["if", "loop", "dynamic"])
@pytest.mark.parametrize("precision, opset", [(torch.float16, 20), (torch.bfloat16, 22)])
def test_control_flow_and_dynamic_shapes_build(text: str, precision: torch.dtype, opset: int) -> None:
    graph = parsed(text, opset)
    cast(graph, precision)
    assert ("HALF" if precision == torch.float16 else "BF16") in layer_types(graph)


def test_conv_net_builds_in_half() -> None:
    graph = exported(ConvNet(), torch.randn(2, 3, 12, 12))
    cast(graph, torch.float16)
    assert "HALF" in layer_types(graph)


def test_masked_attention_builds_in_half() -> None:
    graph = exported(Attention(), torch.randn(2, 5, 16), torch.ones(2, 5))
    cast(graph, torch.float16)
    assert {"HALF", "FLOAT"} <= layer_types(graph)


def test_bfloat16_operators_that_tensorrt_refuses_stay_float32() -> None:
    weight = gs.Constant("w", np.ones((3, 4, 2, 2), np.float32))
    x, y = gs.Variable("x", np.float32, (1, 3, 5, 5)), gs.Variable("y", np.float32, (1, 4, 6, 6))
    graph = gs.Graph([gs.Node("ConvTranspose", "up", inputs=[x, weight], outputs=[y])], [x], [y], opset=22)
    report = cast(graph, torch.bfloat16)
    assert [kept.reason for kept in report.kept] == ["TensorRT takes no bfloat16 ConvTranspose"]
    assert "BF16" not in layer_types(graph)
