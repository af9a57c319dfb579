"""The operator on a GPU, over TensorRT engines."""

import copy
import dataclasses
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest
import torch

import bridge
from bridge import profile
from bridge.backends import BuildSettings, select
from bridge.errors import EngineError
from bridge.runtime import (
    InputSignature,
    OutputSignature,
    Plan,
    Range,
    Signature,
    as_module,
    bindings,
    configure,
    inspect,
    native,
)
from bridge.runtime.module import embed_engine_in_new_module
from bridge.runtime.session_tensorrt import _alive

pytest.importorskip("tensorrt")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:.*deprecated"),
]

DEVICE = torch.device("cuda", 0)
TENSORRT = {"backend": "tensorrt", "disable_tf32": True, "optimization_level": 1}
QUICK = BuildSettings(disable_tf32=True, optimization_level=1)


@pytest.fixture(scope="module")
def weights():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(64, 64, generator=generator).div(8) for _ in range(2)]


@pytest.fixture(scope="module")
def plan(weights):
    x, h, r, y = (gs.Variable(name, np.float32, ["batch", 64]) for name in "xhry")
    nodes = [
        gs.Node("MatMul", "a#1", {}, [x, gs.Constant("w1", weights[0].numpy())], [h]),
        gs.Node("Relu", "b#2", {}, [h], [r]),
        gs.Node("MatMul", "c#3", {}, [r, gs.Constant("w2", weights[1].numpy())], [y]),
    ]
    graph = gs.Graph(nodes, [x], [y], opset=18)
    return select("tensorrt").build(graph, [{"x": ((1, 64), (4, 64), (16, 64))}], QUICK)


@pytest.fixture(scope="module")
def eager(weights):
    first, second = (weight.to(DEVICE) for weight in weights)
    return lambda x: torch.relu(x.float() @ first) @ second


@pytest.fixture
def module(plan):
    return embed_engine_in_new_module(plan)


def close(result, expected):
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)


def test_shapes_streams_and_strides(module, eager):
    side = torch.cuda.Stream()
    for batch in (4, 1, 16, 4):
        x = torch.randn(batch, 64, device=DEVICE)
        close(module(x), eager(x))
        close(module(x.t().contiguous().t()), eager(x))
        with torch.cuda.stream(side):
            y = torch.randn(batch, 64, device=DEVICE)
            close(module(y), eager(y))


def test_addresses_that_are_not_aligned(module, eager):
    x = torch.randn(4 * 64 + 1, device=DEVICE)[1:].view(4, 64)
    assert x.data_ptr() % 256
    close(module(x), eager(x))


def test_work_is_ordered_with_the_callers_stream(module, eager):
    for stream in (torch.cuda.default_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            x = torch.randn(16, 64, device=DEVICE)
            for _ in range(50):
                before = torch.randn(2048, 2048, device=DEVICE) @ torch.randn(2048, 2048, device=DEVICE)
                x = x + before[:16, :64] * 0 + 1
                result = module(x) * 2
                expected = eager(x) * 2
                x.zero_()
                close(result, expected)


def test_wrong_inputs(module):
    with pytest.raises(RuntimeError, match="input 'x' has shape 17x64"):
        module(torch.zeros(17, 64, device=DEVICE))
    with pytest.raises(RuntimeError, match="input 'x' is on cpu; this engine runs on cuda:0"):
        module(torch.zeros(4, 64))


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Runs ``work`` with 0, 1, ... in threads of their own, all at once; the first failure is the test's."""
    failures: list[BaseException] = []

    def caught(seed: int) -> None:
        try:
            work(seed)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=caught, args=(seed,), daemon=True) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures, failures[0]


def test_threads_and_their_streams(module, eager):
    def work(seed: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream() if seed % 2 else torch.cuda.default_stream()):
            for step in range(50):
                x = torch.full((1 + (seed + step) % 16, 64), float(seed), device=DEVICE)
                close(module(x), eager(x))

    in_threads(work, 16)


def test_memory_does_not_grow(module):
    x = torch.randn(4, 64, device=DEVICE)
    for _ in range(1000):
        module(x)
    torch.cuda.synchronize()
    gc.collect()  # what other tests have left
    before, host = torch.cuda.memory_allocated(), resident()
    for _ in range(20_000):
        module(x)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before
    assert resident() - host < 16 << 20


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def wide(seed: int):
    """An engine with 64 MiB of activations, a MiB of weights."""
    random = np.random.default_rng(seed)
    x, y = gs.Variable("x", np.float32, [4096, 64]), gs.Variable("y", np.float32, [4096, 64])
    values = [
        x,
        *(gs.Variable(f"v{index}", np.float32, [4096, 4096 if index % 2 == 0 else 64]) for index in range(3)),
        y,
    ]
    nodes = []
    for index, (source, result) in enumerate(pairwise(values)):
        shape = (64, 4096) if index % 2 == 0 else (4096, 64)
        weight = gs.Constant(f"w{index}", random.standard_normal(shape, np.float32) / 64)
        product = gs.Variable(f"p{index}", np.float32, result.shape)
        nodes.append(gs.Node("MatMul", f"m{index}#{index}", {}, [source, weight], [product]))
        nodes.append(gs.Node("Softmax", f"s{index}#{index + 9}", {"axis": -1}, [product], [result]))
    return select("tensorrt").build(gs.Graph(nodes, [x], [y], opset=18), (), QUICK)


def test_engines_on_one_stream_share_activation_memory():
    modules = [embed_engine_in_new_module(wide(seed)) for seed in (0, 1)]
    x = torch.randn(4096, 64, device=DEVICE)
    torch.cuda.synchronize()
    growth = []
    with torch.cuda.stream(torch.cuda.Stream()):
        for module in modules:
            before = torch.cuda.memory_allocated()
            expected = module(x)
            growth.append(torch.cuda.memory_allocated() - before)
        assert growth[1] < 16 << 20, growth
        for _ in range(10):
            results = [module(x) for module in modules]
        assert torch.equal(results[1], expected)
        assert not torch.equal(results[0], results[1])


def test_cuda_graphs(module, eager):
    module = copy.deepcopy(module)
    configure(module, cuda_graphs=True)
    try:
        for batch in (4, 16, 4, 4):
            x = torch.randn(batch, 64, device=DEVICE)
            first = module(x)
            second = module(x + 1)
            close(first, eager(x))
            close(second, eager(x + 1))
        for batch in range(1, 17):
            x = torch.randn(batch, 64, device=DEVICE)
            close(module(x), eager(x))
    finally:
        configure(module, cuda_graphs=False)


@pytest.mark.parametrize("side", [False, True], ids=["default stream", "side stream"])
def test_cuda_graphs_copy_only_what_does_not_repeat(plan, eager, side):
    module, before = alone(plan, f"asked for graphs {side}"), graphs()
    configure(module, cuda_graphs=True)
    with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream() if side else torch.cuda.default_stream()):
        elsewhere = [torch.randn(4, 64, device=DEVICE) for _ in range(20)]
        kept = [module(x) for x in elsewhere]
        assert graphs() == before  # each was captured with memory of its own
        for x, result in zip(elsewhere, kept, strict=True):
            close(result, eager(x))
        x = torch.randn(4, 64, device=DEVICE)
        for _ in range(20):
            x.normal_()
            close(module(x), eager(x))
        assert graphs() > before
        for y in elsewhere:
            close(module(y), eager(y))
            close(module(x), eager(x))


def graphs() -> int:
    """How many calls that repeat are CUDA graphs now."""
    gc.collect()
    lanes = [lane for session in _alive for lane in session._lanes.values() if lane._repeats is not None]
    return native.graphs() + sum(len(lane._repeats._graphs) for lane in lanes)


def alone(plan: Plan, note: str) -> torch.jit.ScriptModule:
    """A module whose engine nothing else has called."""
    own = dataclasses.replace(plan.header, notes=(note,))
    return embed_engine_in_new_module(Plan.pack(own, {name: plan.section(name) for name in plan.section_names()}))


@pytest.mark.parametrize("side", [False, True], ids=["default stream", "side stream"])
def test_calls_that_repeat_are_graphs(plan, eager, side):
    module, before = alone(plan, f"repeats {side}"), graphs()
    with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream() if side else torch.cuda.default_stream()):
        x = torch.randn(4, 64, device=DEVICE)
        for _ in range(20):
            x.normal_()
            close(module(x), eager(x))
        assert graphs() > before
        kept = []
        for _ in range(20):  # results that are held stay what they are
            x.normal_()
            kept.append((module(x), eager(x)))
        for batch in (3, 4, 16, 4):  # other shapes between them
            y = torch.randn(batch, 64, device=DEVICE)
            for _ in range(5):
                close(module(y), eager(y))
            close(module(x), eager(x))
        torch.cuda.synchronize()
        for result, expected in kept:
            close(result, expected)


def test_calls_that_repeat_are_no_graphs_where_that_is_not_wanted(plan, eager):
    module, before = alone(plan, "no graphs"), graphs()
    configure(module, cuda_graphs=False)
    x = torch.randn(4, 64, device=DEVICE)
    for _ in range(8):
        close(module(x), eager(x))
    assert graphs() == before
    configure(module, cuda_graphs=None)
    for _ in range(8):
        close(module(x), eager(x))
    assert graphs() > before
    assert "calls that come again" in str(inspect(module))


def test_a_graph_follows_and_precedes_what_the_callers_stream_does(plan, eager):
    module = alone(plan, "order")
    for stream in (torch.cuda.default_stream(), torch.cuda.Stream()):
        with torch.inference_mode(), torch.cuda.stream(stream):
            x, total = torch.zeros(16, 64, device=DEVICE), torch.zeros(16, 64, device=DEVICE)
            expected = torch.zeros(16, 64, device=DEVICE)
            for step in range(40):
                noise = torch.randn(2048, 2048, device=DEVICE) @ torch.randn(2048, 2048, device=DEVICE)
                x.copy_(noise[:16, :64] / 64 + step)
                total += module(x)
                expected += eager(x)
                x.zero_()
            torch.testing.assert_close(total, expected, rtol=1e-3, atol=0.5)


def test_repeating_calls_of_threads(plan, eager):
    module = alone(plan, "threads")

    def work(seed: int) -> None:
        with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream()):
            x = torch.full((4, 64), float(seed), device=DEVICE)
            for step in range(60):
                x.fill_(seed + step / 64)
                close(module(x), eager(x))

    in_threads(work, 8)


def test_captures_disturb_no_other_thread(plan, eager):
    failures, stop, before = [], threading.Event(), graphs()

    def work() -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                while not stop.is_set():
                    torch.randn(8, device=DEVICE).add_(torch.empty(1 << 20, device=DEVICE)[:8] * 0)
                    torch.cuda.current_stream().synchronize()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    modules = [alone(plan, f"beside others {index}") for index in range(8)]
    with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream()):
        x = torch.randn(4, 64, device=DEVICE)
        for module in modules:
            for _ in range(6):
                x.normal_()
                close(module(x), eager(x))
    assert graphs() >= before + 8
    stop.set()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert not failures, failures[0]


def test_a_capture_of_the_callers_after_calls_that_repeated(plan, eager):
    module = alone(plan, "a capture after graphs")
    with torch.inference_mode():
        x = torch.randn(4, 64, device=DEVICE)
        for _ in range(6):
            close(module(x), eager(x))
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = module(x)
        for _ in range(3):
            x.normal_()
            graph.replay()
            close(y, eager(x))
            close(module(x), eager(x))


@pytest.mark.parametrize("warm_up_stream", ["default", "capture", "another"])
def test_inside_the_users_own_capture(module, eager, warm_up_stream):
    capture = torch.cuda.Stream()
    warm_up = {"default": torch.cuda.default_stream(), "capture": capture, "another": torch.cuda.Stream()}[
        warm_up_stream
    ]
    replays = []
    for batch in (4, 9):
        x = torch.randn(batch, 64, device=DEVICE)
        with torch.cuda.stream(warm_up):
            module(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=capture):
            y = module(module(x) * 0.5)
        replays.append((graph, x, y))
    for _ in range(3):
        for graph, x, y in replays:
            module(torch.randn(16, 64, device=DEVICE))
            x.copy_(torch.randn_like(x))
            graph.replay()
            torch.cuda.synchronize()
            close(y, eager(eager(x) * 0.5))


def test_a_capture_without_a_call_before_it_is_an_error(plan, eager):
    module = alone(plan, "a capture without a call")
    x = torch.randn(13, 64, device=DEVICE)
    module(x[:7])
    torch.cuda.synchronize()
    with pytest.raises(RuntimeError, match="has not run these shapes yet"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        module(x)
    close(module(x), eager(x))


class Between(torch.nn.Module):
    """Two engines around an operator that stays in PyTorch."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(64, 64), torch.nn.Linear(64, 32)

    def forward(self, x):
        return torch.tanh(self.second(torch.sort(torch.relu(self.first(x)), dim=1)[0])), x * 2


def test_a_whole_module_as_one_graph(caplog):
    eager = Between().eval().to(DEVICE)
    shapes = {"min": (1, 64), "opt": (4, 64), "max": (16, 64)}
    settings = {**TENSORRT, "torch_executed_ops": ["aten::sort"]}
    compiled = bridge.compile(torch.jit.script(eager), [shapes], **settings)
    graphed = as_module(compiled, cuda_graphs=True)
    kept = []
    with torch.no_grad():
        for stream in (torch.cuda.default_stream(), torch.cuda.Stream()):
            torch.cuda.synchronize()
            with torch.cuda.stream(stream):
                for batch in (4, 16, 4, 1, 4):
                    x = torch.randn(batch, 64, device=DEVICE)
                    kept.append((graphed(x), eager(x)))
                    compiled(torch.randn(3, 64, device=DEVICE))
            torch.cuda.synchronize()
        for results, expected in kept:
            for result, wanted in zip(results, expected, strict=True):
                close(result, wanted)
        assert "without a CUDA graph" not in caplog.text
        assert sum(captured is not None for captured in graphed._graphs.values()) == 6
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with mode():
            x = torch.randn(2, 64, device=DEVICE)
            result, double = graphed(x)
        with torch.no_grad():
            close(result, eager(x)[0])
            close(double, x * 2)
    assert not result.requires_grad


def test_what_cannot_be_captured_runs_as_it_is(caplog):
    class Waits(torch.nn.Module):
        def forward(self, x):
            return x * x.sum().item()

    class Writes(torch.nn.Module):
        def forward(self, x):
            return x.mul_(2)

    with torch.no_grad():
        for module, why in ((Waits(), "waits for the GPU"), (Writes(), "writes to its inputs")):
            graphed = as_module(module, cuda_graphs=True)
            x = torch.ones(4, device=DEVICE)
            expected = module(x.clone())
            assert torch.equal(graphed(x), expected)
            assert why in caplog.text
    assert torch.equal(x, expected)


def test_a_capture_that_fails_leaves_random_numbers_as_they_were():
    code = """
import torch
from bridge.runtime.cuda_graphs import capture
value = torch.ones(1, device="cuda")
for _ in range(2):
    try:
        with capture(torch.cuda.CUDAGraph(), torch.cuda.Stream()):
            value.item()
        raise SystemExit("it did not fail")
    except RuntimeError:
        torch.randn(3, device="cuda").sum().item()
graph = torch.cuda.CUDAGraph()
with capture(graph, torch.cuda.Stream()):
    value.add_(1)
graph.replay()
assert value.item() == 2
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr


def test_profiles_are_chosen_by_shape_or_by_name():
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()).eval().to(DEVICE)
    x = bridge.Input(("batch", 64), min_shape=(1, 64), opt_shape=(8, 64), max_shape=(16, 64))
    profiles = [{"batch": (1, 1, 1)}, {"batch": (2, 8, 16)}, {"batch": (1, 2, 4)}]
    compiled = bridge.compile(torch.jit.script(net), [x], profiles=profiles, **TENSORRT)
    with torch.no_grad():
        for batch in (1, 16, 1, 2, 3):
            value = torch.randn(batch, 64, device=DEVICE)
            close(compiled(value), net(value))
        configure(compiled, profile=2)
        for batch in (1, 4):
            value = torch.randn(batch, 64, device=DEVICE)
            close(compiled(value), net(value))
        with pytest.raises(RuntimeError, match="profile"):
            compiled(torch.randn(9, 64, device=DEVICE))
        configure(compiled, profile=None)
        close(compiled(value), net(value))


def test_half_inputs_are_bound_as_they_are():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten()).eval().to(DEVICE)
    x = torch.randn(2, 3, 16, 16, device=DEVICE)
    compiled = bridge.compile(torch.jit.script(net), [x.half()], precision=torch.half, **TENSORRT)
    assert inspect(compiled, layers=False).inputs[0].dtype == "float16"
    for given in (x, x.half()):
        torch.testing.assert_close(compiled(given), net(x), rtol=1e-2, atol=1e-2)


def test_a_module_from_a_machine_without_a_gpu_is_built_here(tmp_path):
    eager = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()).eval()
    settings = {"backend": "onnxruntime", "keep_onnx": True}
    shapes = {"min": (1, 64), "opt": (4, 64), "max": (8, 64)}
    torch.jit.save(bridge.compile(torch.jit.script(eager), [shapes], **settings), tmp_path / "model.ts")
    module = torch.jit.load(tmp_path / "model.ts")
    bridge.rebuild(module, **TENSORRT)
    assert inspect(module, layers=False).engines[0].header.backend == "tensorrt"
    x = torch.randn(3, 64)
    with torch.no_grad():
        close(module(x.to(DEVICE)).cpu(), eager(x))


def test_profile(module):
    report = profile(module, torch.randn(4, 64, device=DEVICE), runs=3)
    assert report.call_ms > 0 and report.layers and not report.in_torch
    assert all(part.ms > 0 for part in report.layers)
    assert len(report.to_trace()["traceEvents"]) > 3 * len(report.layers)
    close(module(torch.ones(4, 64, device=DEVICE)), module(torch.ones(4, 64, device=DEVICE)))


def test_calls_are_ranges_in_profiles(module):
    x = torch.randn(4, 64, device=DEVICE)
    module(x)
    with torch.autograd.profiler.profile() as seen:
        module(x)
    names = [event.name for event in seen.function_events or ()]
    digest = inspect(module, layers=False).engines[0].digest
    assert f"engine {digest[:12]}" in names, names
    assert "bridge::execute_engine" in names


def test_profiled_layers_are_the_users_modules():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.ReLU())
            self.second = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3), torch.nn.ReLU())

        def forward(self, x):
            return self.second(self.first(x))

    x = torch.randn(2, 3, 64, 64, device=DEVICE)
    compiled = bridge.compile(torch.jit.script(Net().eval().to(DEVICE)), [x], **TENSORRT)
    report = profile(compiled, x)
    assert {part.module_path.partition(".")[0] for part in report.layers} & {"first", "second"}, str(report)
    assert any(part.sources for part in report.layers)


def test_torch_compile_with_cuda_graphs(module, eager):
    compiled = torch.compile(as_module(module), mode="reduce-overhead")
    for batch in (4, 4, 4, 4, 9, 9, 9, 4):
        x = torch.randn(batch, 64, device=DEVICE)
        close(compiled(x).clone(), eager(x))


def test_saved_and_loaded_in_a_fresh_process_that_ends_cleanly(module, tmp_path):
    x = torch.randn(3, 64, device=DEVICE)
    torch.save((x, module(x)), tmp_path / "data.pt")
    torch.jit.save(module, tmp_path / "model.ts")
    code = """
import torch, bridge.runtime
x, y = torch.load("data.pt")
module = torch.jit.load("model.ts")
torch.testing.assert_close(module(x), y)
module = torch.jit.load("model.ts", map_location="cuda")
torch.testing.assert_close(module(x), y)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr.lower()


def test_raw_engines(plan, eager):
    raw = plan.section("engine").tobytes()
    module = embed_engine_in_new_module(raw)
    x = torch.randn(5, 64, device=DEVICE)
    close(module(x), eager(x))
    with pytest.raises(RuntimeError, match="dimension 0 is 17 and may be 1 to 16"):
        module(torch.zeros(17, 64, device=DEVICE))
    assert [item.name for item in inspect(raw).inputs] == ["x"]
    assert "layers" in str(inspect(module))
    assert "graphs  none: cuda_graphs=False" in str(inspect(module))  # it may hold anything
    with pytest.raises(EngineError, match="does not take these bytes"):
        embed_engine_in_new_module(b"x" * 1000)


def engine_of_format(dtype: str, shape: tuple[int, ...], name: str) -> bytes:
    """TensorRT's engine of a Relu whose input and output have a format of this name."""
    import tensorrt as trt

    builder = trt.Builder(bindings.logger("tensorrt"))
    network = builder.create_network(0)
    x = network.add_input("x", getattr(trt, dtype), shape)
    y = network.add_activation(x, trt.ActivationType.RELU).get_output(0)
    y.name = "y"
    network.mark_output(y)
    for tensor in (x, y):
        tensor.dtype = getattr(trt, dtype)
        tensor.allowed_formats = 1 << int(getattr(trt.TensorFormat, name))
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.FP16)
    return bytes(builder.build_serialized_network(network, config))


@pytest.mark.parametrize(("dtype", "name"), [("float32", "HWC"), ("float16", "HWC8")])
def test_channels_last(dtype, name):
    module = embed_engine_in_new_module(engine_of_format(dtype, (2, 8, 6, 5), name))
    for cuda_graphs in (False, None, True):
        configure(module, cuda_graphs=cuda_graphs)
        x = torch.randn(2, 8, 6, 5, device=DEVICE, dtype=getattr(torch, dtype))
        for value in (
            x,
            x.contiguous(memory_format=torch.channels_last),
            x.transpose(2, 3).contiguous().transpose(2, 3),
        ):
            for _ in range(5):
                result = module(value)
                assert torch.equal(result, value.relu())
                assert result.is_contiguous(memory_format=torch.channels_last)


def test_formats_that_pytorch_does_not_have_are_refused():
    module = embed_engine_in_new_module(engine_of_format("float16", (2, 3, 6, 5), "HWC8"))
    with pytest.raises(RuntimeError, match="'x' of this engine.* is in TensorRT's format HWC8"):
        module(torch.zeros(2, 3, 6, 5, device=DEVICE, dtype=torch.float16))


def test_engines_of_other_gpus_are_refused(plan):
    other = dataclasses.replace(plan.header, device={"name": "Another GPU", "capability": "1.0"})
    sections = {name: plan.section(name) for name in plan.section_names()}
    module = embed_engine_in_new_module(Plan.pack(other, sections))
    with pytest.raises(RuntimeError, match=r"built for Another GPU \(compute capability 1.0\)"):
        module(torch.zeros(4, 64, device=DEVICE))


def test_export_and_compile(module, eager):
    plain = as_module(module)
    x = torch.randn(4, 64, device=DEVICE)
    batch = torch.export.Dim("batch", min=1, max=16)
    program = torch.export.export(plain, (x,), dynamic_shapes=({0: batch},), strict=False)
    close(program.module()(x[:3]), eager(x[:3]))
    compiled = torch.compile(plain, backend="aot_eager", fullgraph=True)
    close(compiled(x), eager(x))


def test_data_dependent_shapes():
    x, i, y = (
        gs.Variable("x", np.float32, ["n"]),
        gs.Variable("i", np.int64, [1, "m"]),
        gs.Variable("y", np.int64, ["m", 1]),
    )
    nodes = [gs.Node("NonZero", "nonzero#1", {}, [x], [i]), gs.Node("Transpose", "t#2", {"perm": [1, 0]}, [i], [y])]
    plan = select("tensorrt").build(gs.Graph(nodes, [x], [y], opset=18), [{"x": ((1,), (8,), (64,))}], QUICK)
    signature = Signature(
        (InputSignature("x", "float32", (), (Range(1, 8, 64),)),), (OutputSignature("y", "int64", ("?", 1)),)
    ).to_json()
    tensor = plan.to_tensor()
    results = []
    for size in (8, 64, 8, 1):
        value = torch.randn(size, device=DEVICE).relu()
        results.append((torch.ops.bridge.execute_engine([value], tensor, signature)[0], value.nonzero()))
    for result, expected in results:
        assert torch.equal(result, expected)
    assert torch.ops.bridge.execute_engine([torch.zeros(8, device=DEVICE)], tensor, signature)[0].shape == (0, 1)


def test_values_that_decide_shapes():
    x, size, y = (
        gs.Variable("x", np.float32, ["n"]),
        gs.Variable("size", np.int64, [2]),
        gs.Variable("y", np.float32, ["a", "b"]),
    )
    graph = gs.Graph([gs.Node("Reshape", "reshape#1", {}, [x, size], [y])], [x, size], [y], opset=18)
    settings = BuildSettings(shape_values={"size": ((1, 1), (2, 4), (8, 8))}, optimization_level=1)
    plan = select("tensorrt").build(graph, [{"x": ((1,), (8,), (64,))}], settings)
    module = embed_engine_in_new_module(plan)
    value = torch.randn(12, device=DEVICE)
    for shape in ((3, 4), (2, 6), (6, 2)):
        for device in ("cpu", DEVICE):
            assert torch.equal(module(value, torch.tensor(shape, device=device)), value.view(shape))


def test_engines_are_freed_with_their_modules(plan):
    def loaded() -> int:
        return len(_alive) + native.engines()

    module = embed_engine_in_new_module(plan.to_tensor().numpy().tobytes())
    module(torch.zeros(4, 64, device=DEVICE))
    gc.collect()
    alive = loaded()
    x, y = gs.Variable("x", np.float32, [7]), gs.Variable("y", np.float32, [7])
    other = select("tensorrt").build(gs.Graph([gs.Node("Relu", "r#1", {}, [x], [y])], [x], [y], opset=18), (), QUICK)
    second = embed_engine_in_new_module(other)
    second(torch.zeros(7, device=DEVICE))
    assert loaded() == alive + 1
    del second, other
    gc.collect()
    assert loaded() == alive


SEVERAL = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@SEVERAL
def test_an_engine_goes_to_the_gpu_of_its_inputs(module, weights):
    x = torch.randn(4, 64, device="cuda:1")
    first, second = (weight.to("cuda:1") for weight in weights)
    result = module(x)
    assert result.device == x.device
    close(result, torch.relu(x @ first) @ second)


@SEVERAL
def test_two_gpus_at_once_whichever_is_current(module, weights):
    inputs = {index: torch.randn(4, 64, device=f"cuda:{index}") for index in (0, 1)}
    expected = {index: torch.relu(x.cpu() @ weights[0]) @ weights[1] for index, x in inputs.items()}
    for current in (0, 1):
        with torch.cuda.device(current):
            for _ in range(6):  # some of them as graphs
                for index, x in inputs.items():
                    result = module(x)
                    assert result.device == x.device
                    close(result.cpu(), expected[index])
            assert torch.cuda.current_device() == current


@SEVERAL
def test_a_module_compiled_for_another_of_several_gpus():
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()).eval().to("cuda:1")
    compiled = bridge.compile(torch.jit.script(net), [(4, 64)], device="cuda:1", **TENSORRT)
    x = torch.randn(4, 64, device="cuda:1")
    with torch.no_grad():
        close(compiled(x), net(x))
        close(compiled(x.to("cuda:0")).to("cuda:1"), net(x))


def test_the_cpu_backend_takes_tensors_from_a_gpu():
    x, y = gs.Variable("x", np.float32, ["n", 4]), gs.Variable("y", np.float32, ["n", 4])
    graph = gs.Graph([gs.Node("Relu", "r#1", {}, [x], [y])], [x], [y], opset=18)
    module = embed_engine_in_new_module(select("onnxruntime").build(graph, [{"x": ((1, 4), (2, 4), (4, 4))}]))
    for device in ("cuda", "cpu", "cuda"):
        value = torch.randn(3, 4, device=device)
        result = module(value)
        assert result.device == value.device
        assert torch.equal(result, value.relu())
