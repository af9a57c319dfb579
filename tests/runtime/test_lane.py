"""What a lane tells TensorRT and when, against a stand-in for its context that doubles its input on the CPU."""

import contextlib
import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bridge import torch_private
from bridge.errors import EngineError
from bridge.runtime import Binding, RunOptions, context, lane, repeats
from bridge.runtime.lane import Lane

CPU = torch.device("cpu")
PLAIN = RunOptions()


def run(lane, inputs, options=PLAIN):
    return lane.run(inputs, context.CallKind.of([tensor.shape for tensor in inputs], options))


def memory(address: int, count: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))


class Context:
    """Doubles "x" into "y".

    Where the shape of "y" is left to the data, it keeps the positive elements and sums them up in "sum"; of four
    elements, and then the shape is known, it takes all to be positive.
    """

    def __init__(self, data_dependent: bool) -> None:
        self.data_dependent, self.calls, self.active_optimization_profile = data_dependent, [], 0
        self.addresses, self.shape, self.allocator, self.works = {}, (), None, True

    def set_input_shape(self, name, shape):
        self.calls.append("set_input_shape")
        self.shape = shape
        return True

    def set_tensor_address(self, name, address):
        self.calls.append(f"set_tensor_address {name}")
        self.addresses[name] = address

    def set_optimization_profile_async(self, index, stream):
        self.calls.append(f"profile {index}")
        self.active_optimization_profile = index

    def set_device_memory(self, address, size):
        self.calls.append(f"set_device_memory {size}")
        self.scratch = address

    def set_output_allocator(self, name, allocator):
        self.allocator = allocator

    def infer_shapes(self):
        return []

    def get_tensor_shape(self, name):
        if name == "sum":
            return (1,)
        return (-1,) if self.data_dependent and self.shape != (4,) else self.shape

    def execute_async_v3(self, stream):
        x = memory(self.addresses["x"], int(np.prod(self.shape)))
        result = 2 * x
        if self.data_dependent:
            result = x[x > 0] if self.shape != (4,) else x
            memory(self.addresses["sum"], 1)[:] = result.sum()
        if self.data_dependent and self.shape != (4,):
            self.addresses["y"] = self.allocator.reallocate_output_async("y", 0, result.nbytes, 256, stream)
            self.allocator.notify_shape("y", (len(result),))
        memory(self.addresses["y"], result.size)[:] = result
        return self.works


class Session(SimpleNamespace):
    """A lane knows its session weakly; contexts come one after the other."""

    def create_context(self):
        return self.contexts.pop(0), self.scratch_size

    def give_away(self, key, asking):
        return asking.give_away(key)

    def keep(self, context):
        self.kept.append(context)


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=lambda stream: None))
    monkeypatch.setattr(torch_private, "is_capturing", lambda: False)

    def build(data_dependent: bool = False, stream: int = 7, repeats: bool = False) -> tuple[Lane, Context]:
        contexts = [Context(data_dependent) for _ in range(16)]
        session = Session(
            trt=SimpleNamespace(IOutputAllocator=type("Base", (), {})),
            device=CPU,
            input_devices=[torch.device("cuda")],
            output_formats=[torch.contiguous_format] * 2,
            profiles=[{"x": ((1,), (2,), (4,))}, {"x": ((8,), (8,), (16,))}],
            contexts=contexts[:],
            scratch_size=512,
            kept=[],
            why_not_repeated="" if repeats else "of no concern here",
            errors=contextlib.nullcontext,
            inputs=(Binding("x", "float32", ("n",)),),
            outputs=(Binding("y", "float32", ("n",)), Binding("sum", "float32", (1,)))[: 1 + data_dependent],
        )
        holder.append(session)
        return Lane(session, SimpleNamespace(cuda_stream=stream)), contexts[0]

    holder: list[Session] = []
    return build


def test_nothing_is_said_twice(make):
    subject, context = make()
    x = torch.tensor([1.0, 2.0])
    assert run(subject, [x])[0].tolist() == [2.0, 4.0]
    context.calls.clear()
    kept = run(subject, [x])
    assert kept[0].tolist() == [2.0, 4.0]
    assert "set_input_shape" not in context.calls
    assert "set_tensor_address x" not in context.calls
    assert "set_device_memory 512" not in context.calls
    context.calls.clear()
    assert run(subject, [torch.ones(3)])[0].tolist() == [2.0] * 3
    assert "set_input_shape" in context.calls


def test_profiles_are_chosen_by_shape_or_by_option(make):
    subject, context = make()
    run(subject, [torch.ones(2)])
    run(subject, [torch.ones(16)])
    assert context.active_optimization_profile == 1
    run(subject, [torch.ones(4)])
    assert context.active_optimization_profile == 0
    run(subject, [torch.ones(8)], RunOptions(profile=1))
    for size, options in ((5, PLAIN), (2, RunOptions(profile=1)), (2, RunOptions(profile=7))):
        with pytest.raises(EngineError, match=rf"of this engine fits x=\({size},\)"):
            run(subject, [torch.ones(size)], options)


def test_outputs_whose_shape_the_data_decide(make):
    subject, _ = make(data_dependent=True)
    first = run(subject, [torch.tensor([1.0, -1.0, 3.0])])[0]
    second = run(subject, [torch.tensor([-1.0, 5.0, -3.0])])[0]
    assert (first.tolist(), second.tolist()) == ([1.0, 3.0], [5.0])
    assert run(subject, [torch.tensor([-1.0, -5.0, -3.0])])[0].shape == (0,)


def test_outputs_whose_shape_the_data_decide_beside_others(make):
    subject, _ = make(data_dependent=True)
    kept = []
    for values in ([1.0, -1.0, 3.0], [1.0, 2.0, 3.0, 4.0], [5.0, 6.0], [1.0, 1.0, 1.0, 1.0], [-2.0, 7.0]):
        x = torch.tensor(values)
        kept.append((x[x > 0].tolist(), run(subject, [x])))
    for expected, (y, total) in kept:
        assert (y.tolist(), total.tolist()) == (expected, [sum(expected)])


def test_known_shapes_are_bounded(make, monkeypatch):
    monkeypatch.setattr(context, "_MOST_SHAPES", 2)
    subject, _ = make()
    for size in (1, 2, 3, 4, 1):
        assert run(subject, [torch.ones(size)])[0].tolist() == [2.0] * size
    assert len(subject.context._layouts) <= 2


def test_a_failed_run_is_an_error(make):
    subject, context = make()
    context.works = False
    with pytest.raises(EngineError, match="failed to run"):
        run(subject, [torch.ones(2)])


def test_engines_on_one_stream_share_their_scratch_memory(make):
    (first, one), (second, other), (third, elsewhere) = make(), make(), make(stream=8)
    for subject in (first, second, third):
        run(subject, [torch.ones(2)])
    assert one.scratch == other.scratch != elsewhere.scratch


def test_a_capture_of_the_callers_gets_a_context_of_its_own(make, monkeypatch):
    subject, context = make()
    run(subject, [torch.ones(2)])
    shared = context.scratch
    monkeypatch.setattr(torch_private, "is_capturing", lambda: True)
    with pytest.raises(EngineError, match="has not run these shapes yet"):
        run(make(stream=9)[0], [torch.ones(2)])
    x = torch.ones(2)
    for _ in range(2):
        assert run(subject, [x])[0].tolist() == [2.0] * 2
        assert context.scratch != shared
    monkeypatch.setattr(torch_private, "is_capturing", lambda: False)
    context.calls.clear()
    assert run(subject, [torch.ones(3)])[0].tolist() == [2.0] * 3
    assert not context.calls


def test_addresses_that_are_new_are_told(make):
    subject, _ = make()
    kept = [torch.full((2,), float(value)) for value in range(5)]
    for x in (*kept, *kept):
        assert run(subject, [x])[0].tolist() == (2 * x).tolist()


class Graph:
    """Stands for a CUDA graph of what was enqueued: the addresses and the shape that the context had then."""

    def __init__(self, enqueue, counts):
        self.counts = counts
        counts["captured"] += 1
        if counts.get("refused"):
            raise RuntimeError("operation not permitted when stream is capturing")
        context = enqueue.__self__._context
        self.addresses, self.shape, self.context = dict(context.addresses), context.shape, context

    def launch(self, stream):
        self.counts["replayed"] += 1
        assert (self.context.addresses, self.context.shape) == (self.addresses, self.shape), "the context was changed"
        self.context.execute_async_v3(0)


@pytest.fixture
def graphs(monkeypatch):
    counts = {"captured": 0, "replayed": 0}
    monkeypatch.setattr(repeats, "Graph", lambda enqueue: Graph(enqueue, counts))
    memory = torch.zeros(8, 64)  # as from an allocator that gives what was given back last
    free = [memory[row] for row in range(8)]

    def empty(sizes, strides, dtype):
        row = next(part for part in free if not any(taken is part for taken in kept))
        return row[: sizes[0]]

    kept: list[torch.Tensor] = []
    monkeypatch.setattr(torch_private, "empty_cpu", empty)
    counts["take"] = kept
    counts["free"] = free
    return counts


def at(address_of: torch.Tensor, value: float) -> torch.Tensor:
    return address_of.fill_(value)


def aligned(count: int = 4) -> list[torch.Tensor]:
    """Inputs of two elements at addresses that TensorRT takes."""
    memory = torch.zeros(64 * (count + 1))
    first = -memory.data_ptr() // 4 % 64
    return [memory[first + 64 * index :][:2] for index in range(count)]


def test_calls_that_repeat_are_launched_as_graphs(make, graphs):
    subject, _ = make(repeats=True)
    x, other, *_ = aligned()
    kind = context.CallKind.of([x.shape], PLAIN)
    for value in range(1, 9):
        assert subject.run([at(x, value)], kind)[0].tolist() == [2.0 * value] * 2
    assert (graphs["captured"], graphs["replayed"]) == (1, 5)
    assert subject.run([at(other, 3.0)], kind)[0].tolist() == [6.0, 6.0]
    assert graphs["replayed"] == 5
    graphs["take"].append(graphs["free"][0])  # the caller holds a result: the next ones are elsewhere
    assert subject.run([at(x, 5.0)], kind)[0].tolist() == [10.0, 10.0]
    assert graphs["replayed"] == 5
    graphs["take"].clear()
    assert subject.run([at(x, 6.0)], kind)[0].tolist() == [12.0, 12.0]
    assert graphs["replayed"] == 6


def test_asked_for_graphs_calls_that_repeat_are_not_copied(make, graphs, monkeypatch):
    copied = []

    class CapturedCall:
        def __init__(self, *_):
            pass

        def replay(self, inputs, outputs=None):
            copied.append(inputs)
            if outputs is None:
                return [2 * inputs[0]]
            outputs[0].copy_(2 * inputs[0])
            return outputs

    monkeypatch.setattr(lane, "CapturedCall", CapturedCall)
    subject, _ = make(repeats=True)
    x, *others = aligned()
    kind = context.CallKind.of([x.shape], RunOptions(cuda_graphs=True))
    for value in range(1, 9):
        assert subject.run([at(x, value)], kind)[0].tolist() == [2.0 * value] * 2
    assert (len(copied), graphs["captured"], graphs["replayed"]) == (2, 1, 5)
    for other in others:
        assert subject.run([at(other, 3.0)], kind)[0].tolist() == [6.0, 6.0]
    assert (len(copied), graphs["replayed"]) == (2 + len(others), 5)
    misaligned = aligned()[0][1:]
    kind = context.CallKind.of([misaligned.shape], RunOptions(cuda_graphs=True))
    assert subject.run([at(misaligned, 4.0)], kind)[0].tolist() == [8.0]
    assert len(copied) == 3 + len(others)


def test_graphs_are_few_and_make_room(make, graphs, monkeypatch):
    monkeypatch.setattr(repeats, "_PATIENCE", 4)
    subject, _ = make(repeats=True)
    subject.street.stream.query = lambda: True
    kind = context.CallKind.of([torch.Size([2])], PLAIN)
    inputs = aligned(3)
    for _ in range(3):
        for x in inputs:
            for value in range(5):
                assert subject.run([at(x, value)], kind)[0].tolist() == [2.0 * value] * 2
    assert len(subject._repeats._graphs) <= 2
    assert 3 <= graphs["captured"] <= 9
    assert graphs["replayed"] > 10


def test_callers_that_move_on_get_their_graphs_again(make, graphs):
    """Each place is called a few dozen times, then never again: its graph gives its place to the next."""
    subject, _ = make(repeats=True)
    subject.street.stream.query = lambda: True
    kind = context.CallKind.of([torch.Size([2])], PLAIN)
    for x in aligned(6):
        before = graphs["replayed"]
        for value in range(64):
            assert subject.run([at(x, value)], kind)[0].tolist() == [2.0 * value] * 2
        assert graphs["replayed"] - before >= 24
    assert graphs["captured"] <= 4 + 6 * 64 // 32


def test_what_cannot_be_captured_goes_on_as_it_was(make, graphs, caplog):
    graphs["refused"] = True
    subject, _ = make(repeats=True)
    x = aligned()[0]
    kind = context.CallKind.of([x.shape], PLAIN)
    with caplog.at_level("DEBUG", "bridge.runtime"):
        for value in range(8):
            assert subject.run([at(x, value)], kind)[0].tolist() == [2.0 * value] * 2
    assert (graphs["captured"], graphs["replayed"]) == (1, 0)
    assert "not permitted" in caplog.text


@pytest.mark.parametrize("why", ["asked not to", "misaligned", "data decide shapes", "the engine's own"])
def test_calls_that_are_not_captured(make, graphs, why):
    subject, _ = make(data_dependent=why == "data decide shapes", repeats=why != "the engine's own")
    memory = aligned()[0]
    x = memory[1:] if why == "misaligned" else memory
    kind = context.CallKind.of([x.shape], RunOptions(cuda_graphs=False if why == "asked not to" else None))
    for value in range(1, 8):
        expected = float(value) if why == "data decide shapes" else 2.0 * value
        assert subject.run([at(x, value)], kind)[0].tolist() == [expected] * x.numel()
    assert (graphs["captured"], graphs["replayed"]) == (0, 0)


def test_a_capture_of_the_callers_takes_the_context_of_a_graph(make, graphs, monkeypatch):
    subject, _ = make(repeats=True)
    x = aligned()[0]
    kind = context.CallKind.of([x.shape], PLAIN)
    for value in range(5):
        subject.run([at(x, value)], kind)
    assert graphs["replayed"] == 2
    monkeypatch.setattr(torch_private, "is_capturing", lambda: True)
    assert subject.run([at(x, 7.0)], kind)[0].tolist() == [14.0, 14.0]
    monkeypatch.setattr(torch_private, "is_capturing", lambda: False)
    assert subject.run([at(x, 8.0)], kind)[0].tolist() == [16.0, 16.0]
    assert graphs["replayed"] == 2


@pytest.mark.parametrize("profiler", [torch.profiler.profile, torch.autograd.profiler.profile])
def test_profilers_are_noticed(profiler):
    for _ in range(2):
        assert not torch_private.profiler._is_profiler_enabled
        with profiler():
            assert torch_private.profiler._is_profiler_enabled
            assert torch_private.is_profiling()
