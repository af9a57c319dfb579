import numpy as np
import pytest
import torch

from bridge.errors import EngineError
from bridge.runtime import Binding, Plan, PlanHeader

HEADER = PlanHeader(
    backend="onnxruntime",
    version="1.0",
    inputs=(Binding("x", "float32", ("batch", 3)),),
    outputs=(Binding("y", "bfloat16", (2, "?")), Binding("z", "int64", None)),
    profiles=({"x": ((1, 3), (2, 3), (4, 3))},),
    device={"capability": "9.0"},
    settings={"optimization_level": 5},
    notes=("a note",),
)


def packed() -> Plan:
    return Plan.pack(
        HEADER, {"model": b"abc", "weight:w": np.arange(300, dtype=np.float32).reshape(3, 100), "empty": b""}
    )


def test_what_goes_in_comes_out():
    plan = Plan.from_tensor(packed().to_tensor())
    assert plan.header == HEADER
    assert plan.section("model").tobytes() == b"abc"
    assert plan.section("weight:w").view(np.float32).tolist() == list(range(300))
    assert plan.section_names() == ["model", "weight:w", "empty"]


def test_a_view_copies_nothing():
    tensor = packed().to_tensor()
    plan = Plan.from_tensor(tensor)
    assert plan.to_tensor().data_ptr() == tensor.data_ptr()
    offset = plan.section("weight:w").ctypes.data - tensor.data_ptr()
    assert offset > 0 and offset % 256 == 0


def test_the_digest_is_of_the_content():
    assert packed().digest == packed().digest
    assert Plan.pack(HEADER, {"model": b"abd"}).digest != Plan.pack(HEADER, {"model": b"abc"}).digest


def test_bytes_are_verified():
    data = bytearray(packed().to_tensor().numpy().tobytes())
    assert Plan.is_plan(data)
    assert Plan.from_bytes(bytes(data)).header == HEADER
    data[-100] ^= 1
    with pytest.raises(EngineError, match="damaged"):
        Plan.from_bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(100, dtype=torch.uint8), "no plan"),
        (torch.zeros(3, dtype=torch.uint8), "no plan"),
        (packed().to_tensor()[:-600], "cut short"),
        (
            torch.cat([packed().to_tensor()[:8], torch.tensor([9], dtype=torch.uint8), packed().to_tensor()[9:]]),
            "format version 9",
        ),
    ],
)
def test_bytes_that_are_no_plan_are_refused(data, message):
    with pytest.raises(EngineError, match=message):
        Plan.from_tensor(data)
