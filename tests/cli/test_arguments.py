"""Inputs on the command line, and what a wrong one is told."""

import pytest
import torch

from bridge.cli.arguments import described, parsed, spec_inputs
from bridge.errors import SpecError
from bridge.spec import CompileSpec


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("x:1x3x224x224", ("x", (1, 3, 224, 224), None)),
        ("1x3", (None, (1, 3), None)),
        ("batchx3", (None, ("batch", 3), None)),
        ("ids:batch,length:int64", ("ids", ("batch", "length"), "int64")),
        ("x:batchx3x-1", ("x", ("batch", 3, -1), None)),
        ("1x128:int64", (None, (1, 128), "int64")),
        ("scale:", ("scale", (), None)),
        ("x:7", ("x", (7,), None)),
    ],
)
def test_forms(text: str, meant: object) -> None:
    assert parsed("--input", text) == meant


@pytest.mark.parametrize("text", ["x:1xx3", "x:1x3:int64:more", ":1x3", "x:1.5x3", "x:1,,3"])
def test_what_is_not_understood(text: str) -> None:
    with pytest.raises(SpecError, match="--input"):
        parsed("--input", text)


def test_ranges_join_their_input() -> None:
    found = described(["x:batchx3", "ids:4:int64"], ["x:1x3"], ["x:2x3"], ["x:4x3"])
    spec = CompileSpec(**spec_inputs(found, ["x", "ids"]))
    x, ids = spec.flat_inputs()
    assert (x.dims, x.min_shape, x.opt_shape, x.max_shape) == (("batch", 3), (1, 3), (2, 3), (4, 3))
    assert ids.dtype is torch.int64


def test_ranges_alone_are_enough() -> None:
    (found,) = CompileSpec(**spec_inputs(described([], ["1x3"], ["2x3"], ["4x3"]), ["x"])).flat_inputs()
    assert found.is_dynamic


def test_names_of_arguments_set_the_order_and_the_keywords() -> None:
    given = spec_inputs(described(["mask:2", "x:1"]), ["x", "other", "mask"])
    assert [one.opt_shape for one in given["inputs"]] == [(1,)]
    assert list(given["kwarg_inputs"]) == ["mask"]


def test_other_names_are_the_engines() -> None:
    (leaf,) = CompileSpec(**spec_inputs(described(["image:1x3"]), ["x"])).flat_inputs()
    assert leaf.name == "image" and leaf.path == (0,)


def test_dtype_of_all_and_of_one() -> None:
    given = spec_inputs(described(["a:1", "b:1"], dtypes=["half", "b:int32"]), ["a", "b"])
    assert [one.dtype for one in given["inputs"]] == [torch.float16, torch.int32]


def test_errors() -> None:
    with pytest.raises(SpecError, match="the inputs: a"):
        described(["a:1"], dtypes=["b:half"])
    with pytest.raises(SpecError, match="given twice for a"):
        described(["a:1", "a:2"])
    with pytest.raises(SpecError, match="input x.opt_shape: missing"):
        spec_inputs(described(["x:n"], ["x:1"]), ["x"])
