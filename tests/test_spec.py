"""Every way to describe inputs and settings, and what a wrong one is told."""

import copy
import dataclasses
import pickle
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import SpecError
from bridge.spec import CompileSpec, Constant, Device, Input

RANGE = {"min": [1, 3, 8, 8], "opt": [2, 3, 16, 16], "max": [4, 3, 32, 32]}


def batch(rank: int = 2, high: int = 8, **more: Any) -> Input:
    rest = (3,) * (rank - 1)
    return Input(("batch", *rest), min_shape=(1, *rest), opt_shape=(4, *rest), max_shape=(high, *rest), **more)


class TestInput:
    def test_static(self) -> None:
        given = Input((1, 3, 8, 8))
        assert given.min_shape == given.opt_shape == given.max_shape == (1, 3, 8, 8)
        assert not given.is_dynamic and given.dtype is None and given.rank == 4

    def test_scalar_shape_is_static(self) -> None:
        assert Input(()).opt_shape == ()
        assert Input(min_shape=(), opt_shape=(), max_shape=()).opt_shape == ()

    def test_ranges_alone_mark_the_dynamic_axes(self) -> None:
        given = Input(min_shape=(1, 3), opt_shape=(2, 3), max_shape=(4, 3))
        assert given.is_dynamic and given.shape == (-1, 3)

    def test_a_name_without_a_range_of_its_own_is_static(self) -> None:
        given = Input(("batch", 3), min_shape=(2, 3), opt_shape=(2, 3), max_shape=(2, 3))
        assert given.shape == (2, 3)

    def test_example_gives_shape_and_dtype(self) -> None:
        given = Input.from_tensor(torch.zeros(2, 5, dtype=torch.int64), name="ids")
        assert (given.opt_shape, given.dtype, given.name) == ((2, 5), torch.int64, "ids")

    def test_example_is_the_shape_to_optimise_for(self) -> None:
        given = Input(min_shape=(1, 5), max_shape=(9, 5), example=torch.zeros(3, 5))
        assert given.opt_shape == (3, 5)

    def test_torch_tensorrt_names(self) -> None:
        given = Input(shape=(2,), dtype=torch.half, tensor_domain=(0, 5), format=torch.contiguous_format)
        assert given.value_range == (0, 5)
        assert Input(torch_tensor=torch.ones(3)).opt_shape == (3,)

    @pytest.mark.parametrize("dtype", ["fp16", "half", "torch.float16", numpy.float16, numpy.dtype("float16")])
    def test_dtype_by_any_name(self, dtype: object) -> None:
        assert Input((1,), dtype=dtype).dtype is torch.float16

    def test_repr_round_trips(self) -> None:
        for one in (Input((1, 3), dtype=torch.half, name="x", value_range=(0, 2)), batch(), Input(())):
            assert eval(repr(one), {"Input": Input, "torch": torch}) == one

    def test_copies_and_pickles(self) -> None:
        assert copy.deepcopy(batch()) == batch()
        assert pickle.loads(pickle.dumps(batch(name="x"))) == batch(name="x")

    def test_does_not_change(self) -> None:
        with pytest.raises(SpecError, match="Input.dtype"):
            Input((1,)).dtype = torch.half

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({}, "Input.shape: missing"),
            ({"shape": ("n", 3)}, r"Input.shape\[0\]: the dynamic dimension 'n' needs a range"),
            ({"shape": (-1, 3)}, r"Input.shape\[0\]: the dynamic dimension -1 needs a range"),
            ({"shape": (-2, 3)}, r"Input.shape\[0\]: expected a size, a name or -1, got -2"),
            ({"shape": (1.5,)}, r"Input.shape\[0\]"),
            ({"shape": 3}, "Input.shape: expected a sequence"),
            ({"shape": torch.zeros(3)}, "Input.from_tensor"),
            ({"min_shape": (1,), "max_shape": (3,)}, "Input.opt_shape: missing beside min_shape, max_shape"),
            ({"min_shape": (1, 1), "opt_shape": (1,), "max_shape": (3,)}, "Input.min_shape: 2 dimensions"),
            ({"min_shape": (4,), "opt_shape": (1,), "max_shape": (3,)}, r"Input.min_shape\[0\]: 4 is more than"),
            ({"min_shape": (1,), "opt_shape": (5,), "max_shape": (3,)}, r"Input.opt_shape\[0\]: 5 is more than"),
            (
                {"shape": (3,), "min_shape": (1,), "opt_shape": (3,), "max_shape": (4,)},
                r"Input.shape\[0\]: the size is 3, but min_shape and max_shape allow 1 to 4",
            ),
            ({"shape": (3,), "dtype": "flot16"}, "did you mean 'float16'"),
            ({"shape": (3,), "dtype": 7}, "Input.dtype: expected a torch.dtype"),
            ({"shape": (3,), "dtyp": torch.half}, "did you mean 'dtype'"),
            ({"shape": (3,), "name": 3}, "Input.name"),
            ({"shape": (3,), "value_range": (2, 1)}, "Input.value_range"),
            ({"shape": (3,), "example": torch.zeros(4)}, r"Input.example: its shape is \(4,\)"),
            ({"example": torch.zeros(4), "dtype": torch.half}, "Input.example: its dtype is torch.float32"),
            ({"min_shape": (1,), "max_shape": (3,), "example": torch.zeros(4)}, r"opt_shape\[0\]: 4 is more"),
            ({"shape": (3,), "format": torch.channels_last_3d}, "Input.format"),
        ],
    )
    def test_errors_name_the_field(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(SpecError, match=message):
            Input(**settings)


class TestItems:
    def leaf(self, item: Any) -> Any:
        (found,) = CompileSpec([item]).flat_inputs()
        return found

    @pytest.mark.parametrize("shape", [[1, 3], (1, 3), torch.Size([1, 3]), [numpy.int64(1), 3]])
    def test_shapes(self, shape: Any) -> None:
        assert self.leaf(shape).opt_shape == tuple(shape)

    def test_tensor_is_an_example(self) -> None:
        tensor = torch.ones(2, dtype=torch.bool)
        found = self.leaf(tensor)
        assert found.dtype is torch.bool and found.value.example is tensor

    def test_numpy_array_is_an_example(self) -> None:
        assert self.leaf(numpy.ones((2, 3), numpy.float32)).opt_shape == (2, 3)

    def test_range(self) -> None:
        found = self.leaf(RANGE)
        assert found.is_dynamic and found.max_shape == (4, 3, 32, 32)
        assert found.dims == ("input_0_dim0", 3, "input_0_dim2", "input_0_dim3")

    @pytest.mark.parametrize("value", [3, 2.5, True, None, "nearest", torch.float16, torch.device("cpu")])
    def test_constants(self, value: object) -> None:
        _, found = CompileSpec([torch.ones(1), value]).flat_inputs()
        assert not found.is_tensor and found.value is value and found.dtype is None

    def test_constant_passes_on_what_looks_like_a_shape(self) -> None:
        assert CompileSpec([Constant((4, 5))]).example_inputs()[0] == ((4, 5),)

    def test_nests_keep_their_kind(self) -> None:
        pair = namedtuple("pair", "a b")

        @dataclasses.dataclass
        class Box:
            left: Any
            right: Any

        items = [pair([2], [3]), OrderedDict(m=[4]), [[5], [6]], Box([1], "up")]
        args, _ = CompileSpec(items).example_inputs()
        assert type(args[0]) is pair and args[0].b.shape == (3,)
        assert list(args[1]) == ["m"] and isinstance(args[2], list)
        assert args[3].left.shape == (1,) and args[3].right == "up"

    def test_names_of_nested_leaves(self) -> None:
        spec = CompileSpec([([2], [3]), {"mask": [4], "deep": ([5],)}]).bind_names(["states", "features"])
        names = [leaf.name for leaf in spec.flat_inputs()]
        assert names == ["states.0", "states.1", "features.mask", "features.deep.0"]

    def test_torch_tensorrt_input(self) -> None:
        foreign = type("Input", (), {"shape_mode": 1, "dtype": torch.half, "name": "x", "torch_tensor": None})()
        foreign.shape = {"min_shape": (1, 2), "opt_shape": (2, 2), "max_shape": (3, 2)}
        found = self.leaf(foreign)
        assert (found.name, found.dtype, found.max_shape) == ("x", torch.half, (3, 2))

    @pytest.mark.parametrize(
        ("item", "message"),
        [
            ({"min": [1], "opt": [2]}, 'inputs\\[0\\]: the range has no "max"'),
            ({"min": [1], "opt": [2], "maxx": [3]}, 'did you mean "max"'),
            ({"min": [1], "opt": [2], "max": "3"}, r"inputs\[0\].max_shape: expected a sequence"),
            (["batch", 3], "named dimensions, which need a range"),
            (object(), r"inputs\[0\]: expected an Input, a tensor"),
            ([(1, 3), {"a": object()}], r"inputs\[0\]\[1\]\['a'\]"),
        ],
    )
    def test_errors_name_the_place(self, item: Any, message: str) -> None:
        with pytest.raises(SpecError, match=message):
            CompileSpec([item])

    @given(st.lists(st.integers(0, 9), max_size=5), st.booleans())
    def test_a_shape_is_never_an_input(self, sizes: list[int], as_tuple: bool) -> None:
        found = self.leaf(tuple(sizes) if as_tuple else sizes)
        assert found.opt_shape == tuple(sizes)
        assert self.leaf(Input(sizes)).value == found.value


class TestSettings:
    def test_defaults(self) -> None:
        spec = CompileSpec()
        assert spec.inputs is None and spec.precision is torch.float32 and spec.backend == "auto"
        assert repr(spec) == "CompileSpec()"

    def test_the_documents_form(self) -> None:
        spec = CompileSpec.of({"input_shapes": [RANGE], "op_precision": torch.half})
        assert spec.precision is torch.half and spec.flat_inputs()[0].opt_shape == (2, 3, 16, 16)

    def test_torch_tensorrt_form(self) -> None:
        spec = CompileSpec(
            arg_inputs=[(1, 3)],
            enabled_precisions={torch.float, torch.half},
            workspace_size=0,
            truncate_long_and_double=True,
            ir="ts",
            calibrator=None,
            use_explicit_typing=True,
            num_avg_timing_iters=1,
        )
        assert spec.precision is torch.half and spec.truncate_double and spec.workspace_size is None

    def test_assignment_is_checked(self) -> None:
        spec = CompileSpec([(1, 3)])
        spec.op_precision = "bf16"
        assert spec.precision is torch.bfloat16 and spec.op_precision is torch.bfloat16
        with pytest.raises(SpecError, match=r"inputs\[0\].min_shape\[0\]"):
            spec.inputs = [{"min": [3], "opt": [2], "max": [4]}]
        assert spec.flat_inputs()[0].opt_shape == (1, 3)

    def test_inputs_that_disagree_are_not_assigned(self) -> None:
        spec = CompileSpec([batch()])
        with pytest.raises(SpecError, match="'batch' ranges over"):
            spec.inputs = [batch(), batch(high=9)]
        assert len(spec.inputs) == 1

    def test_one_input_needs_no_list(self) -> None:
        assert len(CompileSpec(Input((1,))).inputs) == len(CompileSpec(torch.ones(1)).inputs) == 1

    def test_of_copies_and_overrides(self) -> None:
        first = CompileSpec([(1, 3)], min_block_size=3)
        second = CompileSpec.of(first, {"op_precision": torch.half})
        assert (second.min_block_size, second.precision, first.precision) == (3, torch.half, torch.float32)
        assert CompileSpec.of(None, {"backend": "onnxruntime"}).backend == "onnxruntime"
        assert CompileSpec.of([torch.ones(2)]).flat_inputs()[0].opt_shape == (2,)

    def test_copies_and_pickles(self) -> None:
        spec = CompileSpec([batch()], precision="fp16", torch_executed_ops=["aten::topk"])
        for same in (copy.copy(spec), copy.deepcopy(spec), pickle.loads(pickle.dumps(spec))):
            assert repr(same) == repr(spec)

    @pytest.mark.parametrize(
        ("field", "given", "settled"),
        [
            ("workspace_size", "2GiB", 2 << 30),
            ("workspace_size", 1 << 20, 1 << 20),
            ("device", 1, torch.device("cuda", 1)),
            ("device", "cpu", torch.device("cpu")),
            ("device", Device(gpu_id=2), torch.device("cuda", 2)),
            ("device", Device("gpu:1"), torch.device("cuda", 1)),
            ("timing_cache", "x/t.cache", Path("x/t.cache")),
            ("profiling_verbosity", "layer_names", "layer_names_only"),
            ("torch_executed_ops", ["aten.topk", torch.ops.aten.sort.stable], ("aten::topk", "aten::sort.stable")),
            ("torch_executed_modules", [torch.nn.ReLU, "a.b"], ("torch.nn.modules.activation.ReLU", "a.b")),
            ("target", "TensorRT==10.6", "tensorrt:10.6"),
            ("backend", "ONNXRuntime", "onnxruntime"),
            ("output_names", ["a", "b"], ("a", "b")),
        ],
    )
    def test_values_are_normalised(self, field: str, given: Any, settled: Any) -> None:
        assert getattr(CompileSpec(**{field: given}), field) == settled

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"precison": torch.half}, "no field 'precison'\n  -> did you mean 'precision'"),
            ({"zzz": 1}, "its fields: inputs"),
            ({"precision": torch.int8}, "precision: torch.int8 needs ranges"),
            ({"precision": torch.float64}, "precision: expected torch.float32"),
            ({"backend": "tensort"}, "did you mean 'tensorrt'"),
            ({"min_block_size": 0}, "min_block_size: expected a whole number of at least 1"),
            ({"optimization_level": 6}, "optimization_level: expected 0 to 5"),
            ({"disable_tf32": 1}, "disable_tf32: expected True or False"),
            ({"workspace_size": "much"}, "workspace_size: expected a number of bytes"),
            ({"device": "dla:0"}, "device: expected"),
            ({"device": "meta"}, "device: expected"),
            ({"profiling_verbosity": "detail"}, "did you mean 'detailed'"),
            ({"output_names": ["a", "a"]}, r"output_names\[1\]: 'a' is there twice"),
            ({"output_names": "a"}, "output_names: expected a list"),
            ({"torch_executed_ops": ["topk"]}, 'did you mean "aten::topk"'),
            ({"target": "onnx"}, "target: 'onnx' is not known"),
            ({"max_aux_streams": -1}, "max_aux_streams: expected a whole number of at least 0"),
            ({"progress": 3}, "progress: expected a function"),
            ({"calibrator": object()}, "TensorRT has dropped calibrators"),
            ({"enabled_precisions": {torch.half, torch.bfloat16}}, "at most one dtype beside"),
            ({"precision": torch.half, "op_precision": torch.half}, "precision: given twice, also as op_precision"),
            ({"kwarg_inputs": [(1,)]}, "kwarg_inputs: expected a dict"),
            ({"inputs": [1, 3, 8, 8]}, r"one input of that shape is \[\[1, 3, 8, 8\]\]"),
            ({"inputs": {"x": (1,)}}, "go into kwarg_inputs"),
            ({"inputs": [Input((1,), name="x"), Input((1,), name="x")]}, r"'x' is also the name of inputs\[0\]"),
        ],
    )
    def test_errors_name_the_field(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(SpecError, match=message):
            CompileSpec(**settings)
        with pytest.raises(SpecError, match=message):
            CompileSpec.of(settings)

    def test_unknown_attributes_are_refused(self) -> None:
        spec = CompileSpec()
        with pytest.raises(SpecError, match="did you mean 'workspace_size'"):
            spec.worspace_size = 3
        assert not hasattr(spec, "worspace_size")

    def test_dla_is_refused_with_the_reason(self) -> None:
        with pytest.raises(SpecError, match="DLA"):
            Device("dla:0")

    @pytest.mark.parametrize("spec", [{"min": [1], "opt": [1], "max": [1]}, "x", {1: 2}])
    def test_what_is_no_spec(self, spec: Any) -> None:
        with pytest.raises(SpecError, match="spec:"):
            CompileSpec.of(spec)

    def test_given_in_spec_and_keyword(self) -> None:
        with pytest.raises(SpecError, match="inputs: given twice"):
            CompileSpec.of([(1,)], {"inputs": [(1,)]})


class TestBinding:
    def test_names_and_keywords(self) -> None:
        spec = CompileSpec([(1,)], kwarg_inputs={"mask": (2,)}).bind_names(["x", "y", "mask"], optional={"y"})
        assert [leaf.name for leaf in spec.flat_inputs()] == ["x", "mask"]
        assert [leaf.path for leaf in spec.flat_inputs()] == [(0,), ("mask",)]

    def test_an_inputs_own_name_wins(self) -> None:
        assert CompileSpec([Input((1,), name="image")]).bind_names(["x"]).flat_inputs()[0].name == "image"

    def test_the_original_is_left_alone(self) -> None:
        spec = CompileSpec([(1,)])
        spec.bind_names(["x"])
        assert spec.flat_inputs()[0].name == "input_0"

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            (CompileSpec([(1,), (2,), (3,)]), r"inputs\[2\]: no such .*\(x, mask\) takes 2, 3 are given"),
            (CompileSpec([(1,)]), r"forward\(x, mask\) needs mask; given: 1 positional"),
            (CompileSpec(), r"forward\(x, mask\) needs x, mask"),
            (CompileSpec([(1,)], kwarg_inputs={"msk": (1,)}), "did you mean 'mask'"),
            (CompileSpec([(1,), (1,)], kwarg_inputs={"x": (1,)}), r"kwarg_inputs\['x'\]: also given as inputs\[0\]"),
        ],
    )
    def test_errors_name_the_arguments(self, spec: CompileSpec, message: str) -> None:
        with pytest.raises(SpecError, match=message):
            spec.bind_names(["x", "mask"])


class TestExamples:
    def test_shapes_dtypes_and_repeatability(self) -> None:
        spec = CompileSpec([batch(), Input((2,), dtype=torch.int32), Input((9,), dtype=torch.bool), Input((1,))])
        for which, size in (("min", 1), ("opt", 4), ("max", 8)):
            args, kwargs = spec.example_inputs(which)  # type: ignore[arg-type]
            again, _ = spec.example_inputs(which)  # type: ignore[arg-type]
            assert args[0].shape == (size, 3) and kwargs == {}
            assert all(torch.equal(one, two) for one, two in zip(args, again, strict=True))
        assert [arg.dtype for arg in args] == [torch.float32, torch.int32, torch.bool, torch.float32]
        assert args[1].min() >= 0 and args[1].max() <= 1

    def test_default_dtype_is_for_those_without_one(self) -> None:
        spec = CompileSpec([(2,), Input((2,), dtype=torch.float32)])
        args, _ = spec.example_inputs(default_dtype=torch.bfloat16)
        assert [arg.dtype for arg in args] == [torch.bfloat16, torch.float32]

    def test_given_examples_are_copied(self) -> None:
        """Exporters take one tensor given twice for one input."""
        tensor = torch.randn(2, 2)
        args, _ = CompileSpec([tensor, (tensor,)]).example_inputs()
        assert torch.equal(args[0], tensor) and torch.equal(args[1][0], tensor)
        assert len({one.data_ptr() for one in (tensor, args[0], args[1][0])}) == 3

    def test_examples_are_repeated_to_the_other_shapes(self) -> None:
        ids = torch.tensor([[7, 8]])
        wanted = Input(min_shape=(1, 1), max_shape=(2, 3), example=ids)
        spec = CompileSpec([wanted])
        assert spec.example_inputs("max")[0][0].tolist() == [[7, 8, 7], [7, 8, 7]]
        assert spec.example_inputs("min")[0][0].tolist() == [[7]]

    @pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float16])
    def test_value_range(self, dtype: torch.dtype) -> None:
        args, _ = CompileSpec([Input((200,), dtype=dtype, value_range=(5, 9))]).example_inputs()
        assert args[0].dtype is dtype and args[0].min() >= 5 and args[0].max() <= 9

    def test_dimensions(self) -> None:
        spec = CompileSpec([batch(), batch(rank=1), RANGE])
        assert spec.dimensions()["batch"] == (1, 4, 8)
        assert spec.dimensions()["input_2_dim2"] == (8, 16, 32)

    def test_nest_puts_values_back(self) -> None:
        spec = CompileSpec([([1], {"a": [2]}), 5], kwarg_inputs={"k": [[3]]})
        assert spec.nest("wxyz") == ((("w", {"a": "x"}), "y"), {"k": ["z"]})
