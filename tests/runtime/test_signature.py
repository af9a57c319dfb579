import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import EngineError
from bridge.runtime import InputSignature, OutputSignature, Range, Signature
from bridge.runtime.signature import evaluate

SIGNATURE = Signature(
    inputs=(
        InputSignature("image", "float16", ("float32",), (Range(1, 2, 8, "batch"), 3, Range(32, 64, 128))),
        InputSignature("mask", "bool"),
    ),
    outputs=(
        OutputSignature("y", "float32", ("i0.0", "floor((i0.2 - 1) / 2) + 1", 10, "?")),
        OutputSignature("z", "int64"),
    ),
    options={"cuda_graphs": True},
)


def test_json_and_back():
    text = SIGNATURE.to_json()
    assert Signature.from_json(text) == SIGNATURE
    assert " " not in text.replace("floor((i0.2 - 1) / 2) + 1", "")


def test_output_shapes():
    assert SIGNATURE.output_shapes([(2, 3, 64), (1,)]) == [[2, 32, 10, None], None]


def test_a_newer_version_is_refused():
    with pytest.raises(EngineError, match="version 2"):
        Signature.from_json(SIGNATURE.to_json().replace('"version":1', '"version":2'))


@given(a=st.integers(0, 1000), b=st.integers(1, 1000))
def test_expressions_equal_python(a, b):
    shapes = [(a, b), (b, a)]
    cases = {
        "i0.0 + i1.0 - 3": a + b - 3,
        "i0.0*2": a * 2,
        "i0.0 // i0.1": a // b,
        "i0.0 % i0.1": a % b,
        "floor((i0.0 - 1) / 2) + 1": (a - 1) // 2 + 1,
        "ceil(i0.0 / i0.1)": -(-a // b),
        "floor(i0.0)": a,
        "max(i0.0, i0.1, 7)": max(a, b, 7),
        "min(i0.0, -i0.1)": min(a, -b),
        "12": 12,
    }
    for text, expected in cases.items():
        assert evaluate(text, shapes) == expected


@pytest.mark.parametrize(
    "text", ["__import__('os')", "i0", "i0.0 / 2", "open(i0.0)", "i0.0 ** 2", "1.5", "x", "max()", "(lambda: 1)()"]
)
def test_nothing_else_is_evaluated(text):
    with pytest.raises(EngineError):
        evaluate(text, [(1, 2)])
