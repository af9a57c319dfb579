"""What both TensorRT backends share, proven where no GPU is: TensorRT for RTX parses and builds without one."""

import gc
import logging
import weakref

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs
import pytest
import torch

import bridge
from bridge.backends import BuildSettings, select, tensorrt_family
from bridge.backends.tensorrt_config import configure
from bridge.backends.weights import detach_weights
from bridge.errors import BuildError, EngineError

pytest.importorskip("tensorrt_rtx")
PROFILE = {"x": ((1, 64), (2, 64), (4, 64))}


def linear(dtype=np.float32, *more: gs.Node) -> gs.Graph:
    weight = np.random.default_rng(0).standard_normal((64, 32)).astype(dtype)
    x, h, y = (gs.Variable(name, dtype, ["batch", size]) for name, size in (("x", 64), ("h", 32), ("y", 32)))
    nodes = [
        gs.Node("MatMul", "layer/aten::matmul#1", {}, [x, gs.Constant("w", weight)], [h]),
        gs.Node("Relu", "layer/aten::relu#2", {}, [h], [y]),
    ]
    return gs.Graph(nodes, [x], [y], opset=22)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_builds_strongly_typed_engines(dtype):
    plan = select("tensorrt_rtx").build(linear(dtype), [PROFILE])
    assert plan.header.backend == "tensorrt_rtx"
    assert [(item.name, item.dtype, item.shape) for item in plan.header.inputs] == [
        ("x", np.dtype(dtype).name, ("batch", 64))
    ]
    assert [(item.name, item.dtype) for item in plan.header.outputs] == [("y", np.dtype(dtype).name)]
    assert plan.header.profiles == (PROFILE,)
    assert len(plan.section("engine")) > 1000


def test_several_profiles_and_settings():
    settings = BuildSettings(workspace_size=1 << 28, optimization_level=1, disable_tf32=True, max_aux_streams=0)
    wide = {"x": ((8, 64), (8, 64), (16, 64))}
    plan = select("tensorrt_rtx").build(linear(), [PROFILE, wide], settings)
    assert plan.header.settings == settings.changed()
    assert len(plan.header.profiles) == 2


def test_settings_reach_the_builder():
    import tensorrt_rtx as trt

    with select("tensorrt_rtx")._parsed(linear(), BuildSettings()) as parsed:
        settings = BuildSettings(
            disable_tf32=True, optimization_level=2, profiling_verbosity="none", workspace_size=1 << 20
        )
        config, _ = configure(trt, parsed.builder, parsed.network, [PROFILE], settings, None)
        assert not config.get_flag(trt.BuilderFlag.TF32)
        assert config.builder_optimization_level == 2
        assert config.profiling_verbosity == trt.ProfilingVerbosity.NONE
        assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 20
        default, _ = configure(trt, parsed.builder, parsed.network, [PROFILE], BuildSettings(), None)
        assert default.get_flag(trt.BuilderFlag.TF32)
        assert default.profiling_verbosity == trt.ProfilingVerbosity.DETAILED


def weight_in_network(dtype) -> np.ndarray:
    """The weight of the network that the parser makes of a linear layer."""
    import tensorrt_rtx as trt

    with select("tensorrt_rtx")._parsed(linear(dtype), BuildSettings()) as parsed:
        layers = [parsed.network.get_layer(index) for index in range(parsed.network.num_layers)]
        (constant,) = (layer for layer in layers if layer.type == trt.LayerType.CONSTANT)
        constant.__class__ = trt.IConstantLayer
        return np.array(constant.weights).reshape(constant.shape)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_parsers_take_weights_from_memory_and_older_ones_from_a_file(monkeypatch, dtype):
    import tensorrt_rtx as trt

    weight = linear(dtype).nodes[0].inputs[1].values
    np.testing.assert_array_equal(weight_in_network(dtype), weight)
    monkeypatch.delattr(trt.OnnxParser, "load_initializer")
    np.testing.assert_array_equal(weight_in_network(dtype), weight)


@pytest.fixture
def parses(monkeypatch):
    """A list that grows by one with every graph that is parsed."""
    found, own = [], tensorrt_family._parse
    monkeypatch.setattr(tensorrt_family, "_parse", lambda *given: found.append(given) or own(*given))
    return found


def test_what_the_check_parsed_is_built(parses):
    backend, graph = select("tensorrt_rtx"), linear()
    assert backend.refusals(graph, BuildSettings()) == []
    plan = backend.build(graph, [PROFILE])
    assert len(parses) == 1
    assert [item.name for item in plan.header.outputs] == ["y"]
    again = backend.build(graph, [PROFILE])  # a network is built once
    assert len(parses) == 2
    assert again.header == plan.header


def change_name(graph: gs.Graph) -> None:
    graph.outputs[0].name = "z"


def change_weight(graph: gs.Graph) -> None:
    graph.nodes[0].inputs[1].values = np.zeros((64, 32), np.float32)


@pytest.mark.parametrize("change", [change_name, change_weight])
def test_a_graph_that_changed_since_its_check_is_parsed_anew(parses, change):
    backend, graph = select("tensorrt_rtx"), linear()
    backend.refusals(graph, BuildSettings())
    change(graph)
    plan = backend.build(graph, [PROFILE])
    assert len(parses) == 2
    assert [item.name for item in plan.header.outputs] == [graph.outputs[0].name]


def test_what_is_parsed_lives_no_longer_than_its_graph(parses):
    backend = select("tensorrt_rtx")
    weight = np.ones((64, 32), np.float32)
    graph = linear()
    graph.nodes[0].inputs[1].values, kept = weight, weakref.ref(weight)
    backend.refusals(graph, BuildSettings())
    del graph, weight
    parses.clear()
    gc.collect()
    assert kept() is None


def test_a_module_of_one_engine_is_parsed_once(parses):
    module = torch.jit.trace(
        torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()), torch.rand(2, 64), check_trace=False
    )
    bridge.compile(module, [(2, 64)], backend="tensorrt_rtx", require_full_compilation=True)
    assert len(parses) == 1


def test_progress_is_told():
    heard = []
    select("tensorrt_rtx").build(linear(), [PROFILE], progress=lambda *step: heard.append(step))
    assert len(heard) > 2
    assert all(0 <= done <= steps for _, done, steps in heard)
    assert heard[-1][1] == heard[-1][2]


def test_interrupting_ends_the_build():
    def stop(*step):
        raise KeyboardInterrupt

    with pytest.raises(BuildError):
        select("tensorrt_rtx").build(linear(), [PROFILE], progress=stop)


def test_refusals_name_the_nodes_and_their_reasons():
    graph = linear()
    y = gs.Variable("z", np.float32, ["batch", 32])
    graph.nodes.append(
        gs.Node("searchsorted.Tensor", "block/aten::searchsorted#7", {}, graph.outputs, [y], domain="torch.aten")
    )
    graph.outputs = [y]
    refusals = select("tensorrt_rtx").refusals(graph)
    assert [(item.node_name, item.op_type) for item in refusals] == [
        ("block/aten::searchsorted#7", "searchsorted.Tensor")
    ]
    with pytest.raises(BuildError, match="block/aten::searchsorted#7"):
        select("tensorrt_rtx").build(graph, [PROFILE])


def test_an_error_without_a_node_is_of_the_operator_whose_importer_raised_it():
    x, y, z = (gs.Variable(name, np.float32, ["n", 4]) for name in "xyz")
    zeros = gs.Constant("i", np.zeros((1, 4), np.int64))
    added = gs.Constant("u", np.ones((1, 4), np.float32))
    nodes = [
        gs.Node("Relu", "aten::relu#1", {}, [x], [y]),
        gs.Node("ScatterElements", "aten::scatter_add#2", {"axis": 1, "reduction": "add"}, [y, zeros, added], [z]),
    ]
    refusals = select("tensorrt_rtx").refusals(gs.Graph(nodes, [x], [z], opset=18))
    assert [item.node_name for item in refusals] == ["aten::scatter_add#2"]
    assert "reduction" in refusals[0].reason


def test_refusals_name_nodes_inside_bodies():
    x, y = gs.Variable("x", np.float32, [4]), gs.Variable("y", np.float32, [4])
    condition = gs.Variable("condition", np.bool_, [])

    def body(name: str, op: str, domain: str) -> gs.Graph:
        out = gs.Variable(f"{name}_out", np.float32, [4])
        return gs.Graph(
            [gs.Node(op, f"{name}/aten::op#8", {}, [x], [out], domain=domain)], [], [out], name=name, opset=18
        )

    attrs = {"then_branch": body("then", "det", "torch.aten"), "else_branch": body("else", "Relu", "")}
    graph = gs.Graph([gs.Node("If", "prim::If#1", attrs, [condition], [y])], [x, condition], [y], opset=18)
    assert [item.node_name for item in select("tensorrt_rtx").refusals(graph)] == ["then/aten::op#8"]


def test_a_graph_that_the_parser_cannot_read_is_an_error(monkeypatch):
    model, weights = detach_weights(linear())
    half = {name: array[:32] for name, array in weights.items()}
    monkeypatch.setattr(tensorrt_family, "detach_weights", lambda graph: (model, half))
    with pytest.raises(BuildError, match="could not read"):
        select("tensorrt_rtx").refusals(linear())


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.bool_])
def test_integers_and_bools_keep_their_dtype(dtype):
    x, y = gs.Variable("x", dtype, [2, 3]), gs.Variable("y", dtype, [3, 2])
    plan = select("tensorrt_rtx").build(gs.Graph([gs.Node("Transpose", "t#1", {}, [x], [y])], [x], [y], opset=18))
    assert [item.dtype for item in (*plan.header.inputs, *plan.header.outputs)] == [np.dtype(dtype).name] * 2


@pytest.mark.parametrize("profiles", [[], [{}]])
def test_a_dynamic_input_without_a_range_is_named(profiles):
    with pytest.raises(BuildError, match=r"input 'x' of shape \(-1, 64\)"):
        select("tensorrt_rtx").build(linear(), profiles)


def test_messages_come_through_logging_once(caplog):
    graph = linear()
    with caplog.at_level(logging.WARNING, "bridge.tensorrt"):
        for _ in range(2):
            select("tensorrt_rtx").refusals(graph)
    assert len({record.getMessage() for record in caplog.records}) == len(caplog.records)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it may load")
def test_without_a_gpu_loading_says_so():
    plan = select("tensorrt_rtx").build(linear(), [PROFILE])
    with pytest.raises(EngineError, match="there is no GPU"):
        select("tensorrt_rtx").load(plan, torch.device("cpu"))
