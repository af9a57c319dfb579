"""What a lane tells TensorRT and when, against a stand-in for its context that doubles its input on the CPU."""

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bridge import torch_private
from bridge.errors import EngineError
from bridge.runtime import Binding, RunOptions, context
from bridge.runtime.lane import Lane

CPU = torch.device("cpu")
PLAIN = RunOptions()


def run(lane, inputs, options=PLAIN):
    return lane.run(inputs, context.CallKind.of([tensor.shape for tensor in inputs], options))


def memory(address: int, count: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))


class Context:
    """Doubles "x" into "y", or keeps the positive elements where the shape of "y" is left to the data."""

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
        return (-1,) if self.data_dependent else self.shape

    def execute_async_v3(self, stream):
        x = memory(self.addresses["x"], int(np.prod(self.shape)))
        result = x[x > 0] if self.data_dependent else 2 * x
        if self.data_dependent:
            self.addresses["y"] = self.allocator.reallocate_output_async("y", 0, result.nbytes, 256, stream)
            self.allocator.notify_shape("y", (len(result),))
        memory(self.addresses["y"], result.size)[:] = result
        return self.works


class Session(SimpleNamespace):
    """A lane knows its session weakly; contexts come one after the other."""

    def create_context(self):
        return self.contexts.pop(0), self.scratch_size

    def give_away(self, key, asking):
        found, asking.context = asking.context, None
        return found

    def keep(self, context):
        self.kept.append(context)


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=lambda stream: None))
    monkeypatch.setattr(torch_private, "is_capturing", lambda: False)

    def build(data_dependent: bool = False, stream: int = 7) -> tuple[Lane, Context]:
        contexts = [Context(data_dependent) for _ in range(3)]
        session = Session(
            trt=SimpleNamespace(IOutputAllocator=type("Base", (), {})),
            device=CPU,
            input_devices=[torch.device("cuda")],
            profiles=[{"x": ((1,), (2,), (4,))}, {"x": ((8,), (8,), (16,))}],
            contexts=contexts[:],
            scratch_size=512,
            kept=[],
            inputs=(Binding("x", "float32", ("n",)),),
            outputs=(Binding("y", "float32", ("n",)),),
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
