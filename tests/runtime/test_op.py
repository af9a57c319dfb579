import copy
import dataclasses
import gc
import pickle
import subprocess
import sys
import threading
import weakref

import pytest
import torch

from bridge.errors import EngineError
from bridge.runtime import InputSignature, OutputSignature, Plan, Range, Signature, load


def call(inputs, plan: torch.Tensor, signature: Signature):
    return torch.ops.bridge.execute_engine(inputs, plan, signature.to_json())


def test_numbers_and_dynamic_shapes(linear):
    for batch in (1, 4, 2, 4):
        x = torch.randn(batch, 64)
        torch.testing.assert_close(linear(x)[0], linear.eager(x))


def test_inputs_are_cast_where_the_signature_says_so(linear):
    x = torch.randn(2, 64)
    for dtype in (torch.float16, torch.bfloat16):
        torch.testing.assert_close(linear(x.to(dtype))[0], linear.eager(x.to(dtype)))


def test_not_contiguous_is_fine(linear):
    x = torch.randn(64, 3).t()
    torch.testing.assert_close(linear(x)[0], linear.eager(x))


def test_outputs_do_not_ask_for_gradients(linear):
    x = torch.randn(2, 64, requires_grad=True)
    for value in (x, x.half(), x[:, torch.arange(64)]):
        assert not linear(value)[0].requires_grad


def test_outputs_take_the_dtype_and_order_of_the_signature(linear):
    outputs = (OutputSignature("y", "float64", ("i0.0", 32)), OutputSignature("y", "float16", ("i0.0", 32)))
    signature = dataclasses.replace(linear.signature, outputs=outputs)
    x = torch.randn(2, 64)
    first, second = call([x], linear.plan.to_tensor(), signature)
    assert (first.dtype, second.dtype) == (torch.float64, torch.float16)
    torch.testing.assert_close(first.float(), linear.eager(x))


def test_inputs_are_bound_by_name(linear):
    unused = InputSignature("unused", "int64", (), (3,))
    signature = dataclasses.replace(linear.signature, inputs=(unused, *linear.signature.inputs))
    x = torch.randn(2, 64)
    result = call([torch.zeros(3, dtype=torch.int64), x], linear.plan.to_tensor(), signature)
    torch.testing.assert_close(result[0], linear.eager(x))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], r"takes 1 inputs \(x\); it got 0"),
        ([torch.zeros(5, 64)], r"input 'x' has shape 5x64; dimension 0 is 5 and may be 1 to 4"),
        ([torch.zeros(0, 64)], r"dimension 0 is 0 and may be 1 to 4"),
        ([torch.zeros(2, 65)], r"dimension 1 is 65 and may be 64"),
        ([torch.zeros(2, 64, 1)], r"rank 3 \(2x64x1\); the engine takes rank 2: \(batch=1..4, 64\)"),
        ([torch.zeros(2, 64, dtype=torch.int32)], r"dtype int32; it may be float32 or float16 or bfloat16"),
    ],
)
def test_wrong_inputs_are_named(linear, inputs, message):
    with pytest.raises(EngineError, match=message):
        linear(*inputs)


def test_dimensions_of_one_name_must_agree(linear):
    other = InputSignature("other", "float32", (), (Range(1, 2, 4, "batch"),))
    signature = dataclasses.replace(linear.signature, inputs=(*linear.signature.inputs, other))
    with pytest.raises(EngineError, match="'other' has shape 3; dimension 0 .'batch'. is 3, but 2 in 'x', dimension 0"):
        call([torch.zeros(2, 64), torch.zeros(3)], linear.plan.to_tensor(), signature)


def test_signature_and_plan_must_agree(linear):
    signature = dataclasses.replace(linear.signature, outputs=(OutputSignature("z", "float32", (1,)),))
    with pytest.raises(EngineError, match="output 'z'"):
        call([torch.zeros(2, 64)], linear.plan.to_tensor(), signature)


def test_equal_plans_share_one_session_and_let_go_of_it(linear):
    first = Plan.from_bytes(linear.plan.to_tensor().numpy().tobytes())
    tensor = linear.plan.to_tensor().clone()
    signature = linear.signature
    x = torch.randn(2, 64)
    call([x], tensor, signature)
    session = weakref.ref(load(first, torch.device("cpu")))
    assert session() is load(linear.plan, torch.device("cpu"))
    call([x], tensor, dataclasses.replace(signature, options={"a": 1}))

    lone = Plan.pack(dataclasses.replace(linear.plan.header, notes=("another",)), {
        name: linear.plan.section(name) for name in linear.plan.section_names()
    })  # fmt: skip
    tensor = lone.to_tensor().clone()
    call([x], tensor, signature)
    session = weakref.ref(load(lone, torch.device("cpu")))
    assert session() is not None
    del tensor
    gc.collect()
    assert session() is None


def test_outputs_outlive_the_engine(linear):
    x = torch.randn(2, 64)
    tensor = linear.plan.to_tensor().clone()
    output = call([x], tensor, linear.signature)[0]
    del tensor
    gc.collect()
    torch.testing.assert_close(output, linear.eager(x))


def test_a_used_plan_can_be_copied_and_pickled(linear):
    tensor = linear.plan.to_tensor().clone()
    x = torch.randn(2, 64)
    call([x], tensor, linear.signature)
    for twin in (copy.deepcopy(tensor), pickle.loads(pickle.dumps(tensor))):
        torch.testing.assert_close(call([x], twin, linear.signature)[0], linear.eager(x))


def test_threads(linear):
    failures = []

    def work(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for step in range(100):
            x = torch.randn(1 + (seed + step) % 4, 64, generator=generator)
            if not torch.allclose(linear(x)[0], linear.eager(x), atol=1e-4):
                failures.append((seed, step))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


class Calls(torch.nn.Module):
    def __init__(self, plan: torch.Tensor, signature: str):
        super().__init__()
        self.plan = torch.nn.Buffer(plan)
        self.signature = signature

    def forward(self, x):
        return torch.ops.bridge.execute_engine([x], self.plan, self.signature)[0]


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_scripted_saved_and_loaded_in_a_fresh_process(linear, tmp_path):
    scripted = torch.jit.script(Calls(linear.plan.to_tensor().clone(), linear.signature.to_json()))
    x = torch.randn(3, 64)
    expected = scripted(x)
    torch.testing.assert_close(copy.deepcopy(scripted)(x), expected)
    torch.jit.save(scripted, tmp_path / "model.ts")
    torch.save((x, expected), tmp_path / "data.pt")
    code = """
import torch, bridge.runtime
x, y = torch.load("data.pt")
assert torch.equal(torch.jit.load("model.ts")(x), y)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, check=True, timeout=120)


def test_export_sees_symbolic_shapes(linear):
    module = Calls(linear.plan.to_tensor().clone(), linear.signature.to_json())
    batch = torch.export.Dim("batch", min=1, max=4)
    program = torch.export.export(module, (torch.randn(2, 64),), dynamic_shapes=({0: batch},), strict=False)
    assert "execute_engine" in str(program.graph)
    x = torch.randn(3, 64)
    torch.testing.assert_close(program.module()(x), linear.eager(x))


def test_fake_outputs_of_unknown_rank_are_refused(linear):
    signature = dataclasses.replace(linear.signature, outputs=(OutputSignature("y", "float32", None),))
    module = Calls(linear.plan.to_tensor().clone(), signature.to_json())
    with pytest.raises(Exception, match="rank that is known only after a run"):
        torch.export.export(module, (torch.randn(2, 64),), strict=False)


def test_a_call_like_the_one_before_is_found_at_once(linear, monkeypatch):
    from bridge.runtime import op

    slow = []
    route = op._Calls.route
    monkeypatch.setattr(op._Calls, "route", lambda self, *rest: slow.append(1) or route(self, *rest))
    plan, x = linear.plan.to_tensor().clone(), torch.randn(2, 64)
    other = torch.randn(64, 2).t()
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad, torch.inference_mode):
        with mode():
            for value in (x, other, x.clone().requires_grad_(), torch.randn(3, 64)):
                for _ in range(4):
                    torch.testing.assert_close(call([value], plan, linear.signature)[0], linear.eager(value).detach())
                slow.clear()
                call([value], plan, linear.signature)
                assert not slow
    with pytest.raises(EngineError, match="takes 1 inputs"):
        call([x, x], plan, linear.signature)
    with pytest.raises(EngineError, match="dtype int32"):
        call([x.int()], plan, linear.signature)


def test_options_that_are_set_count_from_the_next_call_on(linear):
    from bridge.runtime.op import set_options

    plan, x = linear.plan.to_tensor().clone(), torch.randn(2, 64)
    for _ in range(3):
        call([x], plan, linear.signature)
    before = plan._bridge_calls.last
    set_options(plan, {"profile": 0})
    call([x], plan, linear.signature)
    assert plan._bridge_calls.last is not before
