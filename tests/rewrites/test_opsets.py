"""Models of newer opsets for targets that read older ones."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

import rewrites
from rewrites.testing import compare, run


def model_of(text: str, opset: int) -> onnx.ModelProto:
    graph = onnx.parser.parse_graph(text)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)


def lowered(model: onnx.ModelProto, target: str = "tensorrt==10.6") -> onnx.ModelProto:
    return rewrites.rewrite(model, target=target, rules=[]).model


def opset_of(model: onnx.ModelProto) -> int:
    return next(o.version for o in model.opset_import if o.domain == "")


CASES = {
    "attention": (
        "g (float[1,2,4,8] q, float[1,2,5,8] k, float[1,2,5,8] v) => (float[1,2,4,8] y)"
        " { y = Attention<is_causal = 1>(q, k, v) }",
        23,
    ),
    "rms": ("g (float[2,3,8] x, float[8] s) => (float[2,3,8] y) { y = RMSNormalization(x, s) }", 23),
    "swish": ("g (float[2,n] x) => (float[2,n] y) { y = Swish<alpha = 0.5>(x) }", 24),
    "group norm": (
        "g (float[2,4,6] x, float[4] s, float[4] b) => (float[2,4,6] y)"
        " { y = GroupNormalization<num_groups = 2>(x, s, b) }",
        21,
    ),
    "only types changed": ("g (float[2,3] x) => (float[3,2] y) { t = Transpose(x) y = Identity(t) }", 25),
}


@pytest.mark.parametrize("name", CASES)
def test_lowered_models_keep_their_numbers_and_are_valid_in_the_older_opset(name: str) -> None:
    text, opset = CASES[name]
    model = model_of(text, opset)
    made = lowered(model)
    assert opset_of(made) == 20
    onnx.checker.check_model(made, full_check=True)
    rng = np.random.default_rng(0)
    shapes = {i.name: [d.dim_value or 3 for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    inputs = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    compare(run(made, inputs), run(model, inputs), 1e-4, 1e-5)


def test_an_operator_without_definition_in_a_body_too_is_lowered_where_the_older_one_says_the_same() -> None:
    text = (
        "g (bool c, float[2] x) => (float[2] y) { y = If(c) <"
        " then_branch = a () => (float[2] p) { p = Relu(x) }, else_branch = b () => (float[2] q) { q = Swish(x) } > }"
    )
    model = model_of(text, 24)
    made = lowered(model)
    assert opset_of(made) == 20
    for taken in (True, False):
        inputs = {"c": np.array(taken), "x": np.array([-1.0, 2.0], np.float32)}
        compare(run(made, inputs), run(model, inputs), 1e-4, 1e-5)


def test_what_cannot_be_converted_says_from_what_to_what() -> None:
    model = model_of("g (int32[2] x) => (int32[2] y) { y = BitwiseAnd(x, x) }", 18)
    with pytest.raises(rewrites.RewriteError, match=r"opset 18.*reads 9 to 17(.|\n)*at: BitwiseAnd y") as caught:
        lowered(model, "tensorrt==8.6")
    assert "Assertion" not in str(caught.value)


def test_a_model_the_target_reads_is_left_as_it_is() -> None:
    model = model_of("g (float[2] x) => (float[2] y) { y = Relu(x) }", 18)
    assert opset_of(lowered(model)) == 18


def test_the_scan_of_opset_8_is_refused_since_the_converter_drops_its_batch_axis() -> None:
    body = "b (float[2] s, float[2] e) => (float[2] t, float[2] o) { t = Add(s, e) o = Identity(t) }"
    scan = f"y, z = Scan<num_scan_inputs=1, body = {body}>(, i, x)"
    head = (
        '< ir_version: 8, opset_import: [ "" : 8 ] > g (float[1,2] i, float[1,3,2] x) => (float[1,2] y, float[1,3,2] z)'
    )
    model = onnx.parser.parse_model(f"{head} {{ {scan} }}")
    with pytest.raises(rewrites.RewriteError, match="batch axis"):
        rewrites.rewrite(model, target="tensorrt_rtx")
