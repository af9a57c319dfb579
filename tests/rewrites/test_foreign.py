"""Models of other exporters: old opsets, functions, bodies, broken ones; results are valid and have the numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

import rewrites
from rewrites import RewriteError
from rewrites.testing import builds, compare, run

RNG = np.random.default_rng(0)


def parsed(text: str, opset: int = 17, domains: tuple[str, ...] = (), functions: tuple[str, ...] = ()):
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    made = [onnx.parser.parse_function(text) for text in functions]
    return helper.make_model(onnx.parser.parse_graph(text), opset_imports=imports, ir_version=8, functions=made)


def nodes_of(*nodes: onnx.NodeProto, opset: int = 13, inits=(), out: tuple[str, ...] = ("y",), x=("n", 3), **fields):
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
    given = [numpy_helper.from_array(np.asarray(v), k) for k, v in dict(inits).items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in out]
    for value in outputs:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    graph = helper.make_graph(nodes, "g", values, outputs, initializer=given, **fields)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


N = helper.make_node
BODY = (
    "(bool p, float[n,3] x) => (float[n,3] y) { h = Relu(x) y = If(p) <"
    " then_branch = a () => (float[n,3] t) { %s }, else_branch = b () => (float[n,3] e) { e = Neg(h) }> }"
)


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 17])
def test_resizing_and_pooling_of_every_opset(opset: int) -> None:
    """What only newer versions of an operator have is at its default for rules that name it."""
    name, inputs = ("Upsample", ["p", "s"]) if opset < 10 else ("Resize", ["p", "s"] if opset == 10 else ["p", "", "s"])
    sizes = [1.0, 1.0, 2.0, 2.0]
    resize = N(
        name, inputs[: 1 if opset == 7 else None], ["y"], mode="nearest", **({"scales": sizes} if opset == 7 else {})
    )
    pool = N("MaxPool", ["x"], ["p"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    model = nodes_of(pool, resize, opset=opset, inits={} if opset == 7 else {"s": np.float32(sizes)}, x=("n", 2, 6, 6))
    model.ir_version = 3 if opset == 7 else 7
    result = rewrites.rewrite(model, target="tensorrt_rtx").model
    x = {"x": RNG.standard_normal((2, 2, 6, 6), np.float32)}
    compare(run(result, x), run(model, x), 1e-6, 1e-6)
    assert builds(result, x) is None


def test_the_opset_is_raised_where_a_rule_needs_it() -> None:
    """The shape of a part of a shape is an attribute from opset 15 on; pads are an input from 11 on."""
    pool = N("MaxPool", ["x"], ["y"], kernel_shape=[2], dilations=[3], pads=[1, 1])
    model = nodes_of(pool, opset=10, x=("n", 2, 9))
    result = rewrites.rewrite(model, target="tensorrt_rtx")
    assert [n.op_type for n in model.graph.node] == ["MaxPool"] and "MaxPool" not in {
        n.op_type for n in result.model.graph.node
    }
    assert any("the opset was raised for onnx/pool-to-shifted-slices" in note for note in result.report.notes)
    onnx.checker.check_model(result.model)
    x = {"x": RNG.standard_normal((2, 2, 9), np.float32)}
    compare(run(result.model, x), run(model, x), 1e-6, 1e-6)
    assert result.report.fired[0].node == "y"  # a node without a name is called by its output, as it was
    first = rewrites.rewrite(model, target="tensorrt_rtx", limit=1)
    assert len(first.report.fired) == 1 and first.report.fired[0] == result.report.fired[0]


def test_the_opset_stays_where_raising_it_brings_nothing() -> None:
    model = nodes_of(N("MaxPool", ["x"], ["y"], kernel_shape=[2]), opset=10, x=("n", 2, 9))
    result = rewrites.rewrite(model, target="tensorrt_rtx")
    assert result.model.opset_import[0].version == 10 and not result.report.notes


FUNCTIONS = {
    "nested": (
        "g (float[n,3] x) => (float[n,3] y) { y = my.Two(x) }",
        '<domain: "my", opset_import: ["" : 17]> One <a> (x) => (y)'
        " { c = Constant<value_float: float = @a>() y = Mul(x, c) }",
        '<domain: "my", opset_import: ["" : 17, "my" : 1]> Two (x) => (y)'
        " { t = my.One<a=2.0>(x) y = my.One<a=3.0>(t) }",
    ),
    "of an older opset": (
        "g (float[n,3] x) => (float[n,1] y) { y = my.Old(x) }",
        '<domain: "my", opset_import: ["" : 12]> Old (x) => (y) { y = ReduceSum<axes = [1]>(x) }',
    ),
    "with an input left out": (
        "g (float[n,3] x) => (float[n,3] y) { y = my.Clipped(x) }",
        '<domain: "my", opset_import: ["" : 17]> Clipped (x, low) => (y) { y = Clip(x, low) }',
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_inlined(name: str) -> None:
    text, *functions = FUNCTIONS[name]
    model = parsed(text, domains=("my",), functions=tuple(functions))
    result = rewrites.rewrite(model, target="tensorrt_rtx").model
    assert not result.functions and {n.domain for n in result.graph.node} <= {""}
    x = {"x": RNG.standard_normal((2, 3), np.float32)}
    compare(run(result, x), run(model, x), 1e-6, 1e-6)
    assert builds(result, x) is None


def test_functions_that_cannot_be_inlined_are_named() -> None:
    function = '<domain: "my", opset_import: ["" : 99]> New (x) => (y) { y = Relu(x) }'
    model = parsed("g (float[n,3] x) => (float[n,3] y) { y = my.New(x) }", domains=("my",), functions=(function,))
    with pytest.raises(RewriteError, match=r"function of the model cannot be inlined: my::New: "):
        rewrites.rewrite(model)


def test_functions_that_call_themselves_are_named() -> None:
    function = '<domain: "my", opset_import: ["" : 17, "my" : 1]> Again (x) => (y) { y = my.Again(x) }'
    model = parsed("g (float[n,3] x) => (float[n,3] y) { y = my.Again(x) }", domains=("my",), functions=(function,))
    with pytest.raises(RewriteError, match=r"function of the model cannot be inlined: my::Again: .*[Cc]ycle"):
        rewrites.rewrite(model)


def test_inputs_with_a_default_value_are_constants_and_told() -> None:
    """TensorRT's parser takes them for constants; callers of ONNX Runtime may give others."""
    model = nodes_of(N("Add", ["x", "k"], ["y"]), inits={"k": np.ones(3, np.float32)})
    model.graph.input.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, [3]))
    result = rewrites.rewrite(model)
    assert "inputs with a default value are constants: k" in result.report.notes
    assert [value.name for value in result.model.graph.input] == ["x"]
    model.ir_version = 3  # which has no constants but such
    assert rewrites.rewrite(model).report.notes == []


def test_a_value_in_a_file_that_is_not_there_is_named(tmp_path) -> None:
    model = nodes_of(N("TopK", ["x", "k"], ["y", "i"]), inits={"k": np.array([2])}, out=("y",))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="k.bin", size_threshold=0)
    with pytest.raises(RewriteError, match=r"(?s)value of 'k' is in another file, which cannot be read.*onnx.load"):
        rewrites.rewrite(onnx.load(tmp_path / "m.onnx", load_external_data=False))
    assert rewrites.rewrite(onnx.load(tmp_path / "m.onnx")).report.notes == []


@pytest.mark.parametrize("inside", ["h = Exp(x) t = Neg(h)", "t = Identity(h)"])
def test_values_of_bodies_are_not_those_outside(inside: str) -> None:
    model = parsed("g " + BODY % inside)
    given = {"x": RNG.standard_normal((2, 3), np.float32), "p": np.array(True)}
    result = rewrites.rewrite(model, target="tensorrt_rtx").model
    onnx.checker.check_model(result, full_check=True)
    expected = -np.exp(given["x"]) if "Exp" in inside else np.maximum(given["x"], 0)
    compare(run(result, given), [expected], 1e-6, 1e-6)


def test_bodies_have_initializers_of_their_own() -> None:
    model = parsed("g " + BODY % "t = Add(x, w)")
    model.graph.initializer.append(numpy_helper.from_array(np.float32([1, 2, 3]), "w"))
    model.graph.node[0].CopyFrom(N("Add", ["x", "w"], ["h"]))
    body = next(a.g for a in model.graph.node[1].attribute if a.name == "then_branch")
    body.initializer.append(numpy_helper.from_array(np.float32([10, 20, 30]), "w"))
    given = {"x": RNG.standard_normal((2, 3), np.float32), "p": np.array(True)}
    result = rewrites.rewrite(model, target="tensorrt_rtx").model
    compare(run(result, given), [given["x"] + np.float32([10, 20, 30])], 1e-6, 1e-6)
    compare(run(result, {**given, "p": np.array(False)}), [-given["x"] - np.float32([1, 2, 3])], 1e-6, 1e-6)


def test_an_outer_value_may_be_what_a_body_gives() -> None:
    model = parsed("g " + BODY % "t = Identity(h)")
    body = next(a.g for a in model.graph.node[1].attribute if a.name == "then_branch")
    del body.node[:]
    body.output[0].name = "h"
    given = {"x": RNG.standard_normal((2, 3), np.float32), "p": np.array(True)}
    compare(run(rewrites.rewrite(model).model, given), [np.maximum(given["x"], 0)], 1e-6, 1e-6)


def test_nodes_may_come_in_any_order() -> None:
    model = nodes_of(N("Exp", ["a"], ["y"]), N("Hardmax", ["b"], ["a"]), N("Relu", ["x"], ["b"]))
    result = rewrites.rewrite(model, target="tensorrt_rtx")
    onnx.checker.check_model(result.model)
    x = {"x": RNG.standard_normal((2, 3), np.float32)}
    compare(run(result.model, x), run(model, x), 1e-6, 1e-6)
    assert "the nodes of g were put in order" in result.report.notes


@pytest.mark.parametrize("linear", [True, False])
def test_sparse_constants_are_made_dense(linear: bool) -> None:
    dense, places = np.float32([[0, 1.5, 0], [0, 2.5, 0]]), np.int64([1, 4] if linear else [[0, 1], [1, 1]])
    values = numpy_helper.from_array(np.float32([1.5, 2.5]), "s")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(places, "i"), [2, 3])
    nodes = [N("Constant", [], ["c"], sparse_value=sparse), N("Add", ["x", "c"], ["a"]), N("Mul", ["a", "s"], ["y"])]
    result = rewrites.rewrite(nodes_of(*nodes, sparse_initializer=[sparse], x=(2, 3)), target="tensorrt_rtx").model
    x = {"x": RNG.standard_normal((2, 3), np.float32)}
    compare(run(result, x), [(x["x"] + dense) * dense], 1e-6, 1e-6)
    assert builds(result, x) is None


def test_what_is_left_out_at_the_end_is_not_written() -> None:
    nodes = [N("Clip", ["x", "", ""], ["c"]), N("Dropout", ["c"], ["d", ""]), N("Split", ["d"], ["y", ""], axis=1)]
    result = rewrites.rewrite(nodes_of(*nodes, x=("n", 4)), target="tensorrt_rtx").model
    assert [(len(n.input), len(n.output)) for n in result.graph.node] == [(1, 1), (1, 1), (1, 2)]


def test_the_domain_of_onnx_has_two_names() -> None:
    model = nodes_of(N("Hardmax", ["x"], ["y"], domain="ai.onnx"))
    model.opset_import[0].domain = "ai.onnx"
    result = rewrites.rewrite(model, target="tensorrt_rtx").model
    onnx.checker.check_model(result)
    assert [entry.domain for entry in result.opset_import] == [""] and {n.domain for n in result.graph.node} == {""}


def without_opset() -> onnx.ModelProto:
    model = nodes_of(N("Relu", ["x"], ["y"]))
    model.opset_import[0].domain = "acme"
    return model


BROKEN = {
    "made twice": (
        lambda: nodes_of(N("Relu", ["x"], ["y"], name="r"), N("Exp", ["x"], ["y"])),
        "'y'.*Relu r and by Exp y",
    ),
    "made by nothing": (
        lambda: nodes_of(N("Add", ["x", "b"], ["y"], name="a")),
        "Add a reads 'b', which nothing makes",
    ),
    "an output of nothing": (lambda: nodes_of(N("Relu", ["x"], ["a"])), "output 'y' is made by nothing"),
    "a circle": (
        lambda: nodes_of(N("Add", ["x", "y"], ["a"]), N("Exp", ["a"], ["y"])),
        "wait for each other: Add a, Exp y",
    ),
    "no opset": (without_opset, "does not say which opset it is of, but has Relu y"),
    "no graph": (onnx.ModelProto, "the model has no graph"),
    "a path": (lambda: "model.onnx", r"model: expected an onnx.ModelProto.*got str(.|\n)*onnx.load"),
    "nothing": (lambda: None, "model: expected an onnx.ModelProto.*got NoneType"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_models_are_explained(name: str) -> None:
    make, told = BROKEN[name]
    with pytest.raises(RewriteError, match=told):
        rewrites.rewrite(make())


CALLS = {
    "a target": ({"target": "cuda"}, "unknown target 'cuda'"),
    "no target": ({"target": None}, "target: expected a name, got None"),
    "a version": ({"target": "tensorrt==new"}, "'new' is no version"),
    "a rule": ({"rules": [3]}, r"rules: expected a rule, got 3 \(int\)"),
    "a rule's name": ({"rules": "onnx/dft-to-matmul"}, "rules: expected a rule, got 'onnx/dft-to-matmul'"),
    "a limit": ({"limit": -1}, "limit: expected a whole number from 0, got -1"),
}


@pytest.mark.parametrize("name", CALLS)
def test_wrong_calls_are_explained(name: str) -> None:
    given, told = CALLS[name]
    with pytest.raises(RewriteError, match=told):
        rewrites.rewrite(nodes_of(N("Relu", ["x"], ["y"])), **given)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: rewrites.lowering("gelu", examples=[]), "'gelu' is no operator"),
        (lambda: rewrites.tensor(2, dtype="float99"), "'float99' is no element type"),
        (lambda: rewrites.tensor(-2), "got -2"),
        (lambda: rewrites.rule(name="t/r", matches=3, examples=[])(type("R", (), {"rewrite": lambda op: op})), "got 3"),
    ],
)
def test_wrong_rules_are_explained(call, told: str) -> None:
    with pytest.raises(RewriteError, match=told):
        call()


def test_a_rules_name_is_suggested() -> None:
    for call in (rewrites.default_rules().without, rewrites.default_rules().__getitem__):
        with pytest.raises(
            RewriteError, match=r"no rule is named 'onnx/dft-to-matmull'\n.*did you mean onnx/dft-to-matmul"
        ):
            call("onnx/dft-to-matmull")


class _Data:
    """Calibration data of ONNX Runtime's quantization tool."""

    def __init__(self) -> None:
        self.sets = iter([{"x": RNG.standard_normal((2, 3, 8, 8), np.float32)} for _ in range(3)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.sets, None)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("kind", ["QInt8", "QUInt8"])
def test_models_of_the_quantization_tool_of_onnx_runtime(form: str, kind: str, tmp_path) -> None:
    """Operators of its own domain hide the types of what follows, until a rule has replaced them."""
    tool = pytest.importorskip("onnxruntime.quantization")
    text = """g (float[n,3,8,8] x) => (float[n,5] y) {
        a = Conv<pads = [1, 1, 1, 1]>(x, w) r = Relu(a) b = Conv<pads = [1, 1, 1, 1]>(r, v) s = Sigmoid(b) c = Add(r, s)
        d = Mul(c, s) l = LeakyRelu<alpha = 0.1>(d) k = Concat<axis = 1>(l, s) p = AveragePool<kernel_shape = [2, 2]>(k)
        m = GlobalAveragePool(p) f = Flatten(m) h = Gemm<transB = 1>(f, u, t) y = Softmax<axis = 1>(h) }"""
    model = parsed(text, opset=13)
    sizes = {"w": (4, 3, 3, 3), "v": (4, 4, 3, 3), "u": (5, 8), "t": (5,)}
    for name, shape in sizes.items():
        model.graph.initializer.append(numpy_helper.from_array(RNG.standard_normal(shape, np.float32) / 3, name))
    onnx.save(model, tmp_path / "float.onnx")
    types = {"activation_type": tool.QuantType[kind], "weight_type": tool.QuantType.QInt8}
    options = {"quant_format": tool.QuantFormat[form], "per_channel": True, **types}
    tool.quantize_static(tmp_path / "float.onnx", tmp_path / "quantized.onnx", _Data(), **options)
    quantized = onnx.load(tmp_path / "quantized.onnx")
    assert form == "QDQ" or {"QLinearAdd", "QGemm"} <= {n.op_type for n in quantized.graph.node}
    result = rewrites.rewrite(quantized, target="tensorrt_rtx").model
    onnx.checker.check_model(result, full_check=True)
    x = {"x": RNG.standard_normal((2, 3, 8, 8), np.float32)}
    compare(run(result, x), run(quantized, x), 1e-5, 2e-2)
    assert builds(result, x) is None
