import os
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch

from bridge.backends import select
from bridge.backends.weights import SMALL, detach_weights
from bridge.errors import BuildError

NUMPY = {
    torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: ml_dtypes.bfloat16, torch.float64: np.float64,
    torch.int64: np.int64, torch.int32: np.int32, torch.bool: np.bool_, torch.uint8: np.uint8,
}  # fmt: skip


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def run(graph: gs.Graph, *inputs: torch.Tensor) -> list[torch.Tensor]:
    backend = select("onnxruntime")
    return backend.load(backend.build(graph), torch.device("cpu")).run(list(inputs))


def unary(op: str, dtype: torch.dtype, shape=(2, 8), **attrs) -> gs.Graph:
    x, y = gs.Variable("x", NUMPY[dtype], list(shape)), gs.Variable("y", NUMPY[dtype])
    return gs.Graph([gs.Node(op, "a#1", attrs, [x], [y])], [x], [y], opset=22)


@pytest.mark.parametrize("dtype", NUMPY, ids=str)
def test_every_dtype_goes_in_and_out(dtype):
    x = torch.randn(2, 8).mul(3).to(dtype)
    assert torch.equal(run(unary("Identity", dtype), x)[0], x)


@pytest.mark.parametrize("shape", [(), (0, 3), (1,)])
def test_scalars_and_empty_tensors(shape):
    x = torch.randn(shape)
    torch.testing.assert_close(run(unary("Sigmoid", torch.float32, shape), x)[0], x.sigmoid())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_are_used_in_place(dtype):
    w, b = torch.randn(64, 48).to(dtype), torch.randn(48).to(dtype)
    x, h, y = (
        gs.Variable(name, NUMPY[dtype], shape) for name, shape in (("x", ["n", 64]), ("h", None), ("y", ["n", 48]))
    )
    nodes = [
        gs.Node("MatMul", "m#1", {}, [x, gs.Constant("w", as_numpy(w))], [h]),
        gs.Node("Add", "a#2", {}, [h, gs.Constant("b", as_numpy(b))], [y]),
    ]
    graph = gs.Graph(nodes, [x], [y], opset=22)
    model, weights = detach_weights(graph)
    assert model.ByteSize() < 2 * SMALL
    assert weights["w"].ctypes.data == w.data_ptr()
    assert graph.nodes[0].inputs[1].values.ctypes.data == w.data_ptr()
    value = torch.randn(3, 64).to(dtype)
    expected = ((value.float() @ w.float()).to(dtype).float() + b.float()).to(dtype)
    torch.testing.assert_close(
        run(graph, value)[0],
        expected,
        rtol=1e-2 if dtype is not torch.float32 else None,
        atol=1e-2 if dtype is not torch.float32 else None,
    )


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells a process its memory there")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_neither_copied_nor_all_widened_at_once(dtype):
    """Casts of all weights before the first product take twice their memory, rounded up; a copy takes it once."""
    width, count = 1024, 32
    tensors = [gs.Variable(f"t{i}", NUMPY[dtype], [1, width]) for i in range(count + 1)]
    weight = torch.randn(width, width).div(width**0.5).to(dtype)
    nodes = [
        gs.Node("MatMul", f"m#{i}", {}, [tensors[i], gs.Constant(f"w{i}", as_numpy(weight.clone()))], [tensors[i + 1]])
        for i in range(count)
    ]
    plan = select("onnxruntime").build(gs.Graph(nodes, [tensors[0]], [tensors[-1]], opset=22))
    before = resident()
    session = select("onnxruntime").load(plan, torch.device("cpu"))
    session.run([torch.randn(1, width).to(dtype)])
    assert resident() - before < 0.75 * count * weight.nbytes


def test_bfloat16_arithmetic_is_emulated_and_said_so(caplog):
    plan = select("onnxruntime").build(unary("Exp", torch.bfloat16))
    assert "1 nodes compute in FP32" in plan.header.notes[0]
    assert plan.header.notes[0] in caplog.text
    x = torch.randn(2, 8).bfloat16()
    result = select("onnxruntime").load(plan, torch.device("cpu")).run([x])[0]
    assert torch.equal(result, x.float().exp().bfloat16())


def branch(name: str, op: str, outer: gs.Variable, weight: np.ndarray) -> gs.Graph:
    out = gs.Variable(f"{name}_out", outer.dtype, None)
    return gs.Graph(
        [gs.Node(op, f"{name}#1", {}, [outer, gs.Constant("w", weight)], [out])], [], [out], name=name, opset=22
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_in_bodies(dtype):
    first, second = torch.randn(32, 32).to(dtype), torch.randn(32, 32).to(dtype)
    x, y = gs.Variable("x", NUMPY[dtype], ["n", 32]), gs.Variable("y", NUMPY[dtype], ["n", 32])
    condition = gs.Variable("condition", np.bool_, [])
    attrs = {
        "then_branch": branch("then", "MatMul", x, as_numpy(first)),
        "else_branch": branch("else", "Mul", x, as_numpy(second)),
    }
    graph = gs.Graph([gs.Node("If", "if#1", attrs, [condition], [y])], [x, condition], [y], opset=22)
    value = torch.randn(32, 32).to(dtype)
    torch.testing.assert_close(run(graph, value, torch.tensor(True))[0], (value.float() @ first.float()).to(dtype))
    torch.testing.assert_close(run(graph, value, torch.tensor(False))[0], value * second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loops_and_constants_from_outside(dtype):
    # three times: state = state * scale + w, where scale is a small constant that the main graph uses too
    w, scale = torch.randn(32, 32).to(dtype), torch.tensor([0.5]).to(dtype)
    x, start, y = (gs.Variable(name, NUMPY[dtype], [32, 32]) for name in ("x", "start", "y"))
    step, go, still = (
        gs.Variable("step", np.int64, []),
        gs.Variable("go", np.bool_, []),
        gs.Variable("still", np.bool_, []),
    )
    state, scaled, after = (gs.Variable(name, NUMPY[dtype], None) for name in ("state", "scaled", "after"))
    outside = gs.Constant("scale", as_numpy(scale))
    inner = [
        gs.Node("Identity", "go#4", {}, [go], [still]),
        gs.Node("Mul", "mul#5", {}, [state, outside], [scaled]),
        gs.Node("Add", "add#6", {}, [scaled, gs.Constant("w", as_numpy(w))], [after]),
    ]
    body = gs.Graph(inner, [step, go, state], [still, after], name="body", opset=18)
    count = gs.Constant("count", np.array(3, np.int64))
    nodes = [
        gs.Node("Mul", "mul#1", {}, [x, outside], [start]),
        gs.Node("Loop", "loop#2", {"body": body}, [count, gs.Variable.empty(), start], [y]),
    ]
    value = torch.randn(32, 32).to(dtype)
    expected = value * scale
    for _ in range(3):
        expected = expected * scale + w
    graph = gs.Graph(nodes, [x], [y], opset=18)
    assert select("onnxruntime").refusals(graph) == []
    torch.testing.assert_close(run(graph, value)[0], expected)


def test_the_graph_is_not_optimised():
    # optimised, x + 1e8 - 1e8 might become x
    big = gs.Constant("big", np.array([1e8], np.float32))
    x, h, y = (gs.Variable(name, np.float32, [4]) for name in ("x", "h", "y"))
    graph = gs.Graph(
        [gs.Node("Add", "a#1", {}, [x, big], [h]), gs.Node("Sub", "s#2", {}, [h, big], [y])], [x], [y], opset=18
    )
    assert run(graph, torch.full((4,), 0.25))[0].tolist() == [0.0] * 4


def test_refusals_name_the_nodes():
    x, h, y = (gs.Variable(name, np.float32, [4]) for name in ("x", "h", "y"))
    strange = gs.Node("searchsorted.Tensor", "block/aten::searchsorted#7", {}, [x], [h], domain="torch.aten")
    graph = gs.Graph([strange, gs.Node("Relu", "r#8", {}, [h], [y])], [x], [y], opset=18)
    refusals = select("onnxruntime").refusals(graph)
    assert [(item.node_name, item.op_type) for item in refusals] == [
        ("block/aten::searchsorted#7", "searchsorted.Tensor")
    ]
    with pytest.raises(BuildError, match="searchsorted"):
        select("onnxruntime").build(graph)


def test_refusals_look_into_bodies_and_at_types():
    x, y = gs.Variable("x", np.bool_, [4]), gs.Variable("y", np.bool_, [4])
    condition = gs.Variable("condition", np.bool_, [])
    out, same = gs.Variable("out", np.bool_), gs.Variable("same", np.bool_)
    wrong = gs.Graph([gs.Node("Relu", "inner#3", {}, [x], [out])], [], [out], name="then", opset=18)
    right = gs.Graph([gs.Node("Identity", "id#4", {}, [x], [same])], [], [same], name="else", opset=18)
    node = gs.Node("If", "if#1", {"then_branch": wrong, "else_branch": right}, [condition], [y])
    refusals = select("onnxruntime").refusals(gs.Graph([node], [x, condition], [y], opset=18))
    assert [(item.node_name, item.op_type) for item in refusals] == [("inner#3", "Relu")]
    assert "bool" in refusals[0].reason


def test_what_all_operators_of_a_model_need_is_not_refused():
    graph = unary("HardSwish", torch.float16)
    assert select("onnxruntime").refusals(graph) == []
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[n, 4] x) => (float[n, 4] y)'
        "{ s = Softmax(x) y = LayerNormalization(s, s) }"
    )
    assert select("onnxruntime").refusals(gs.import_onnx(model)) == []
