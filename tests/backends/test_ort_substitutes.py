"""What ONNX Runtime's own kernels compute wrongly: operators on integers of 64 bits, sampling far outside."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest
import torch

from bridge.backends import select

EDGES = [
    0,
    1,
    -1,
    2**31 - 1,
    2**31,
    -(2**31),
    -(2**31) - 1,
    2**32 - 1,
    2**33 + 2**31,
    2**53 + 1,
    -(2**53) - 1,
    2**62 + 3,
]
VALUES = np.random.default_rng(0).choice(np.array(EDGES, np.int64), (3, 4, 5))
OTHERS = np.random.default_rng(1).choice(np.array(EDGES, np.int64), (3, 4, 5))


def results(nodes: list[gs.Node], inputs: dict[str, np.ndarray], output: gs.Variable, opset: int = 20) -> np.ndarray:
    variables = {name: gs.Variable(name, array.dtype, array.shape) for name, array in inputs.items()}
    for node in nodes:
        node.inputs = [variables.get(tensor.name, tensor) for tensor in node.inputs]
    graph = gs.Graph(nodes, list(variables.values()), [output], opset=opset)
    backend = select("onnxruntime")
    session = backend.load(backend.build(graph), torch.device("cpu"))
    return session.run([torch.from_numpy(array) for array in inputs.values()])[0].numpy()


def computed(operator: str, *inputs: np.ndarray | None, opset: int = 20, **attributes: object) -> np.ndarray:
    """One operator; the second input and those after it are constants where they have less than two dimensions."""
    given, taken = {}, []
    for index, array in enumerate(inputs):
        name = f"i{index}"
        if array is None:
            taken.append(gs.Variable.empty())
        elif index and array.ndim < 2:
            taken.append(gs.Constant(name, array))
        else:
            given[name] = array
            taken.append(gs.Variable(name, array.dtype, array.shape))
    y = gs.Variable("y", np.int64)
    return results([gs.Node(operator, "a#1", attributes, taken, [y])], given, y, opset)


REDUCTIONS = {
    "ReduceSum": np.sum,
    "ReduceProd": np.prod,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceSumSquare": lambda x, **how: np.sum(x * x, **how),
    "ReduceL1": lambda x, **how: np.sum(np.abs(x), **how),
}


@pytest.mark.parametrize("axes", [None, (1,), (-1, 0), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("operator", REDUCTIONS)
def test_reductions(operator, keepdims, axes):
    given = [] if axes is None else [np.array(axes)]
    expected = REDUCTIONS[operator](VALUES, axis=axes, keepdims=bool(keepdims))
    found = computed(operator, VALUES, *given, keepdims=keepdims)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("operator", ["ReduceProd", "ReduceMax"])
def test_reductions_with_axes_as_an_attribute(operator):
    expected = REDUCTIONS[operator](VALUES, axis=(0, 2))
    np.testing.assert_array_equal(computed(operator, VALUES, opset=17, axes=[0, -1], keepdims=0), expected)


def test_reductions_of_nothing():
    x = np.zeros((3, 0), np.int64)
    np.testing.assert_array_equal(computed("ReduceSum", x, np.array([1]), keepdims=0), [0, 0, 0])
    np.testing.assert_array_equal(computed("ReduceProd", x, np.array([1]), keepdims=0), [1, 1, 1])
    np.testing.assert_array_equal(computed("ReduceSum", VALUES, np.array([], np.int64), noop_with_empty_axes=1), VALUES)


def test_comparisons():
    low, high = np.array(-(2**33)), np.array(2**31 - 1)
    np.testing.assert_array_equal(computed("Sign", VALUES), np.sign(VALUES))
    np.testing.assert_array_equal(computed("Relu", VALUES), np.maximum(VALUES, 0))
    np.testing.assert_array_equal(
        computed("Min", VALUES, OTHERS, OTHERS[:1]), np.minimum(VALUES, np.minimum(OTHERS, OTHERS[:1]))
    )
    np.testing.assert_array_equal(computed("Max", VALUES, OTHERS), np.maximum(VALUES, OTHERS))
    np.testing.assert_array_equal(computed("Max", VALUES), VALUES)
    np.testing.assert_array_equal(computed("Clip", VALUES, low, high), VALUES.clip(low, high))
    np.testing.assert_array_equal(computed("Clip", VALUES, None, high), np.minimum(VALUES, high))
    np.testing.assert_array_equal(computed("Clip", VALUES, low), np.maximum(VALUES, low))
    np.testing.assert_array_equal(computed("Clip", VALUES), VALUES)


@pytest.mark.parametrize("divisor", [7, -1_000_003, 2**33 + 1])
def test_remainders(divisor):
    y = np.array(divisor)
    np.testing.assert_array_equal(computed("Mod", VALUES, y, fmod=1), np.fmod(VALUES, y))
    np.testing.assert_array_equal(computed("Mod", VALUES, y), np.mod(VALUES, y))


def test_where_of_bools():
    c, x, y = (np.random.default_rng(seed).random((4, 5)) > 0.5 for seed in range(3))
    out = gs.Variable("y", np.bool_)
    names = [gs.Variable(name, np.bool_, (4, 5)) for name in "abc"]
    found = results([gs.Node("Where", "a#1", {}, names, [out])], {"a": c, "b": x, "c": y}, out)
    np.testing.assert_array_equal(found, np.where(c, x, y))


def test_inside_a_branch():
    condition, x, y = (
        gs.Variable("c", np.bool_, []),
        gs.Variable("x", np.int64, VALUES.shape),
        gs.Variable("y", np.int64),
    )

    def body(name: str, operator: str) -> gs.Graph:
        out = gs.Variable(f"{name}_out", np.int64)
        axes = gs.Constant(f"{name}_axes", np.array([1]))
        return gs.Graph(
            [gs.Node(operator, f"{name}#2", {"keepdims": 0}, [x, axes], [out])], [], [out], name=name, opset=20
        )

    attributes = {"then_branch": body("then", "ReduceSum"), "else_branch": body("else", "ReduceMin")}
    graph = gs.Graph([gs.Node("If", "if#1", attributes, [condition], [y])], [x, condition], [y], opset=20)
    backend = select("onnxruntime")
    session = backend.load(backend.build(graph), torch.device("cpu"))
    for chosen, expected in ((True, VALUES.sum(1)), (False, VALUES.min(1))):
        np.testing.assert_array_equal(
            session.run([torch.from_numpy(VALUES), torch.tensor(chosen)])[0].numpy(), expected
        )


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("rank", [2, 3])
def test_sampling_far_outside(rank, mode, padding):
    given = np.random.default_rng(0).random((1, 2, 4, 5, 6)[: rank + 2], np.float32)
    far = [1e5, -1e8, 1e20, -3e38, 0.3]
    grid = np.full((1, *[1] * (rank - 1), len(far) * rank, rank), 0.1, np.float32)
    for place, (coordinate, axis) in enumerate((c, a) for c in far for a in range(rank)):
        grid[..., place, axis] = coordinate
    options = {"mode": "linear" if mode == "bilinear" else mode, "padding_mode": padding}
    taken = [gs.Variable("x", np.float32, given.shape), gs.Variable("grid", np.float32, grid.shape)]
    out = gs.Variable("y", np.float32)
    found = results([gs.Node("GridSample", "a#1", options, taken, [out])], {"x": given, "grid": grid}, out)
    expected = torch.nn.functional.grid_sample(
        torch.from_numpy(given), torch.from_numpy(grid), mode, padding, align_corners=False
    )
    within = np.abs(grid).max(-1).reshape(-1) < 1e37  # beyond, PyTorch's product with the size is infinite
    np.testing.assert_allclose(
        found.reshape(2, -1)[:, within], expected.numpy().reshape(2, -1)[:, within], rtol=1e-4, atol=1e-6
    )
