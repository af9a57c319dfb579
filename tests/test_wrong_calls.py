"""The Python interface called wrongly: a BridgeError whose text names the argument, what it got and what it may be."""

from __future__ import annotations

import inspect
import pathlib
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch

import bridge
from bridge.runtime.calls import engine_calls
from bridge.runtime.plan import Plan
from tests.small import Scaled

X, SCALE = torch.ones(2, 4), torch.ones(1)
INPUTS = [(2, 4), (1,)]


@pytest.fixture(scope="module")
def module() -> torch.jit.ScriptModule:
    return torch.jit.script(Scaled().eval())


@pytest.fixture(scope="module")
def compiled(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    return bridge.compile(module, INPUTS, backend="onnxruntime")


class Other(torch.nn.Module):
    @torch.jit.export
    def other(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


class Uninitialised(torch.nn.Module):
    def __init__(self) -> None:
        self.size = 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Fails(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("ouch")


class Empty(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> None:
        return None


def with_inputs(*inputs: Any, **settings: Any) -> Callable[..., object]:
    return lambda module, _: bridge.compile(module, list(inputs), backend="onnxruntime", **settings)


def with_settings(**settings: Any) -> Callable[..., object]:
    return lambda module, _: bridge.compile(module, INPUTS, **settings)


def of_module(thing: Any) -> Callable[..., object]:
    return lambda *_: bridge.compile(thing, INPUTS)


def described(**fields: Any) -> Callable[..., object]:
    return lambda *_: bridge.Input(**fields)


def in_itself() -> torch.nn.Module:
    module = torch.nn.Sequential(torch.nn.ReLU())
    module.append(module)
    return module


def damaged(compiled: torch.nn.Module) -> bytes:
    content = bytearray(engine_calls(compiled)[0].plan.numpy().tobytes())
    content[content.index(b"{") + 4] = 0xFF
    return bytes(content)


def cyclic() -> list[Any]:
    nest: list[Any] = [X]
    nest.append(nest)
    return nest


def plan_of(compiled: torch.nn.Module) -> Plan:
    return Plan.from_tensor(engine_calls(compiled)[0].plan)


WRONG: dict[str, tuple[Callable[..., object], str]] = {
    # what is compiled
    "no module": (of_module(None), "module: NoneType cannot be compiled.*torch.nn.Module"),
    "a path": (of_module("model.ts"), "module: str cannot be compiled"),
    "a class": (of_module(Scaled), "module: type cannot be compiled"),
    "a function": (of_module(torch.relu), "module: .* cannot be compiled"),
    "weights": (of_module({"weight": X}), "module: dict cannot be compiled"),
    "a script function": (of_module(torch.jit.trace(torch.relu, X, check_trace=False)), "script function.*forward"),
    "weights without values": (of_module(torch.nn.Linear(4, 3, device="meta")), "weights are on the meta device"),
    "weights without shapes": (of_module(torch.nn.LazyLinear(3)), "weights have no shapes yet.*call it once"),
    "a module that is not initialised": (of_module(Uninitialised()), r"Uninitialised is not initialised.*super\(\)"),
    "a module in itself": (of_module(in_itself()), "Sequential is in itself, as a submodule"),
    "too many for a plain module": (
        lambda *_: bridge.compile(Scaled(), [X, SCALE, X]),
        r"not those of forward\(x, scale\).*too many positional arguments",
    ),
    "an unknown keyword for a plain module": (
        lambda *_: bridge.compile(Scaled(), [X], kwarg_inputs={"scal": SCALE}),
        r"not those of forward\(x, scale\).*'scal",
    ),
    "a list of modules": (of_module(torch.nn.ModuleList([torch.nn.ReLU()])), "ModuleList has no forward"),
    "no forward": (of_module(torch.jit.script(Other())), "has no method 'forward'.*its methods: other"),
    # the spec as a whole
    "a number": (lambda m, _: bridge.compile(m, 3), r"inputs: expected a list of .*got 3 \(int\)"),
    "a word": (lambda m, _: bridge.compile(m, "x"), r"spec: expected a CompileSpec.*got 'x'"),
    "nothing": (lambda m, _: bridge.compile(m), r"inputs: not given; forward\(x, scale\)"),
    "nothing for a plain module": (lambda *_: bridge.compile(Scaled()), r"not given; forward\(x, scale\) needs"),
    "a model of ONNX": (lambda m, _: bridge.compile(bridge.to_onnx(m, INPUTS), INPUTS), "ModelProto cannot.*rewrites"),
    "too few": (with_inputs((2, 4)), r"forward\(x, scale\) needs scale"),
    "too many": (with_inputs((2, 4), (1,), (1,)), r"inputs\[2\]: no such argument.*takes 2, 3 are given"),
    "an unknown keyword": (
        lambda m, _: bridge.compile(m, inputs=[(2, 4)], kwarg_inputs={"scal": (1,)}), "'scal'.*did you mean 'scale'",
    ),
    "twice": (
        lambda m, _: bridge.compile(m, inputs=INPUTS, kwarg_inputs={"scale": (1,)}), "'scale'.*also given as inputs.1.",
    ),
    "in two places": (lambda m, _: bridge.compile(m, {"inputs": INPUTS}, inputs=INPUTS), "inputs: given twice"),
    "an unknown field": (with_settings(precison=torch.float16), "'precison'.*did you mean 'precision'"),
    "an unknown attribute": (lambda *_: setattr(bridge.CompileSpec(INPUTS), "bakend", 1), "'bakend'.*'backend'"),
    # inputs
    "a shape as text": (with_inputs("2x4", (1,)), r"inputs\[0\]: expected an input for the tensor 'x', got '2x4'"),
    "a shape of floats": (with_inputs((2.0, 4), (1,)), r"inputs\[0\]: .*got \(2.0, 4\).*a shape such as"),
    "a shape with None": (with_inputs((None, 4), (1,)), r"inputs\[0\]: .*'x', got \(None, 4\)"),
    "a shape with True": (with_inputs((True, 4), (1,)), r"inputs\[0\]: .*'x', got \(True, 4\)"),
    "a negative size": (with_inputs((-3, 4), (1,)), r"inputs\[0\]\.shape\[0\]: expected a size, a name or -1, got -3"),
    "a name without a range": (with_inputs(("batch", 4), (1,)), r"inputs\[0\]: .*named dimensions.*need a range"),
    "a range without opt": (with_inputs({"min": (1, 4), "max": (2, 4)}, (1,)), r'inputs\[0\]: the range has no "opt"'),
    "a range out of order": (
        with_inputs({"min": (3, 4), "opt": (1, 4), "max": (2, 4)}, (1,)), r"inputs\[0\]\.min_shape\[0\]: 3 is more",
    ),
    "a range of two ranks": (
        with_inputs({"min": (1, 4), "opt": (1, 4, 1), "max": (2, 4)}, (1,)), r"min_shape: 2 dimensions, but opt_",
    ),
    "a range misspelt": (
        with_inputs({"min": (1, 4), "opt": (1, 4), "maxi": (2, 4)}, (1,)), "not 'maxi'.*did you mean \"max\"",
    ),
    "a size beyond 64 bits": (with_inputs((2**63, 4), (1,)), r"inputs\[0\]\.shape\[0\]: expected a size"),
    "too many dimensions": (with_inputs((1,) * 70, (1,)), r"inputs\[0\]\.shape: 70 dimensions.*64 at most"),
    "a nest in itself": (with_inputs(cyclic(), (1,)), r"inputs\[0\]\[1\]: the nest is in itself"),
    "a size beyond memory": (with_inputs((2**40, 4), (1,)), r"inputs\[0\]: no example of shape \(1099511627776, 4\)"),
    "a tensor without values": (with_inputs(X.to("meta"), (1,)), r"inputs\[0\].*meta device has no values"),
    "a quantized tensor": (
        with_inputs(torch.quantize_per_tensor(X, 0.1, 0, torch.qint8), (1,)), r"inputs\[0\].*a quantized tensor",
    ),
    "another dtype": (
        with_inputs(bridge.Input((2, 4), dtype=torch.int64), (1,)), "does not run on.*x: int64 2x4, scale: float32",
    ),
    "another shape": (with_inputs((2, 5), (1,)), "does not run on inputs.*x: float32 2x5.*2x5 and 4x3"),
    "an Input of nothing": (described(), r"Input\.shape: missing"),
    "a dtype that is none": (described(shape=(2,), dtype="float99"), r"Input\.dtype: 'float99'"),
    "a dtype of another kind": (described(shape=(2,), dtype=3), r"Input\.dtype: expected a torch.dtype, got 3 \(int\)"),
    "a name of another kind": (described(shape=(2,), name=3), r"Input\.name: expected a name, got 3"),
    "a field misspelt": (described(shape=(2,), dtpye=torch.float32), "'dtpye'.*did you mean 'dtype'"),
    "a range of values upside down": (described(shape=(2,), value_range=(5, 1)), r"Input\.value_range: .*low < high"),
    "a range of values without end": (described(shape=(2,), value_range=(0, float("inf"))), "neither of them infinite"),
    "a range of values beyond the dtype": (
        described(shape=(2,), value_range=(0, 1000), dtype=torch.uint8), "uint8 holds 0 to 255, not 0 to 1000",
    ),
    "a range of no whole number": (
        described(shape=(2,), value_range=(0.2, 0.7), dtype=torch.int64), "no int64 from 0.2 to below 0.7",
    ),
    "a range of values as text": (described(shape=(2,), value_range="0..1"), r"Input\.value_range: .*got '0..1'"),
    "an array of words": (with_inputs(numpy.array(["a", "b"]), (1,)), r"inputs\[0\]: expected an array of numbers"),
    "an example that is no tensor": (described(example=[1, 2]), r"Input\.example: expected a tensor, got \[1, 2\]"),
    # settings
    "precision as text": (with_settings(precision="fp17"), "precision: 'fp17'.*did you mean"),
    "another precision": (with_settings(precision="full"), "'full' is not known.*known: bf16, bfloat16, f16"),
    "precision int8": (with_settings(precision=torch.int8), "precision: torch.int8.*quantize the module"),
    "precision float64": (
        with_settings(precision=torch.float64),
        "precision: expected torch.float32.*got torch.float64",
    ),
    "a backend that is none": (with_settings(backend="cuda"), "backend: 'cuda'.*known: auto, onnxruntime"),
    "no backend": (with_settings(backend=None), "backend: expected one of auto.*got None"),
    "a flag as text": (
        with_settings(require_full_compilation="yes"),
        "require_full_compilation: expected True or False",
    ),
    "a block of nothing": (
        with_settings(min_block_size=0),
        "min_block_size: expected a whole number of at least 1, got 0",
    ),
    "operators as one word": (with_settings(torch_executed_ops="aten::relu"), "torch_executed_ops: expected a list"),
    "operators as numbers": (with_settings(torch_executed_ops=[3]), r"torch_executed_ops\[0\]: expected an operator"),
    "modules as numbers": (with_settings(torch_executed_modules=[3]), r"torch_executed_modules\[0\]: .*got 3"),
    "a device of another kind": (with_settings(device="tpu"), "device: expected a device such as .*got 'tpu'"),
    "a device that is not here": (with_settings(device="cuda:97"), "device: cuda:97 is not here"),
    "less than no workspace": (with_settings(workspace_size=-1), "workspace_size: expected a number of bytes.*got -1"),
    "no bytes of workspace": (with_settings(workspace_size="0.1"), "workspace_size: expected a number of bytes.*'0.1'"),
    "more workspace than counts": (with_settings(workspace_size=2**70), "workspace_size: expected a number of bytes"),
    "an index of no GPU": (with_settings(device=10**20), "device: expected a device such as"),
    "a level beyond 5": (with_settings(optimization_level=7), "optimization_level: expected 0 to 5, got 7"),
    "a verbosity that is none": (with_settings(profiling_verbosity="loud"), "profiling_verbosity: 'loud'.*detailed"),
    "an input's name for an output": (with_settings(output_names=["x"]), r"output_names\[0\]: 'x' is the name of an"),
    "names for other outputs": (with_settings(output_names=["a", "b"]), "output_names: 2 names for 1 result: a, b"),
    "a rule that is none": (with_settings(rules=[3]), r"rules\[0\]: expected a rewrite rule, got 3"),
    "rules as text": (with_settings(rules="gelu"), "rules: expected a list of rules, got 'gelu'"),
    "a rule nobody knows": (with_settings(disabled_rules=["no/such"]), "disabled_rules: no rule is named 'no/such'"),
    "a target that is none": (with_settings(target="cuda:1"), "target: 'cuda'.*known: onnxruntime, tensorrt"),
    "progress that is no function": (with_settings(progress=3), "progress: expected a function.*got 3"),
    "a cache that is no path": (with_settings(timing_cache=3), "timing_cache: expected a path, got 3"),
    # other results
    "a method that is not there": (
        lambda m, _: bridge.to_onnx(m, INPUTS, method_name="fwd"),
        "'fwd'.*its methods: forward",
    ),
    "a method that a plain module lacks": (
        lambda *_: bridge.check_method_op_support(Scaled(), "fwd", INPUTS), "Scaled has no method 'fwd'",
    ),
    "a method that is no name": (lambda m, _: bridge.to_onnx(m, INPUTS, method_name=3), "method_name: .*got 3"),
    "inputs where the method belongs": (
        lambda m, _: bridge.convert_method_to_trt_engine(m, INPUTS), r"method_name: expected a name, got \[\(2, 4\)",
    ),
    "engines of ONNX Runtime": (
        lambda m, _: bridge.convert_method_to_trt_engine(m, "forward", INPUTS, backend="onnxruntime"), "has no engines",
    ),
    "no engine": (lambda *_: bridge.embed_engine_in_new_module(None), "engine: expected the bytes.*got NoneType"),
    "an engine's path": (
        lambda *_: bridge.embed_engine_in_new_module("x.engine"),
        "engine: expected the bytes.*got str",
    ),
    "an engine of another backend": (
        lambda *_: bridge.embed_engine_in_new_module(b"1234", backend="ort"), "'ort'.*tensorrt, tensorrt_rtx",
    ),
    "names that are none": (
        lambda _, c: bridge.embed_engine_in_new_module(plan_of(c), input_names="x"), "input_names: .*got 'x'",
    ),
    "a damaged plan": (lambda _, c: bridge.inspect(damaged(c)), "this plan is damaged: its header cannot be read"),
    "two devices": (lambda *_: bridge.Device("cuda:0", gpu_id=1), "cuda:0 and gpu_id=1 are two devices"),
    "a truth as a GPU": (lambda *_: bridge.Device(gpu_id=True), "Device.gpu_id: expected the index of a GPU, got True"),
    "a GPU's name for an engine": (
        lambda *_: bridge.embed_engine_in_new_module(b"1234", device="cuda:0"), "device: expected the index of a GPU",
    ),
    "rewriting as text": (lambda m, _: bridge.to_onnx(m, INPUTS, rewrite="no"), "rewrite: expected True or False"),
    "a device that is none": (lambda *_: bridge.Device("tpu"), "Device.spec: expected a device.*got 'tpu'"),
    "an engine's other inputs": (
        lambda _, c: bridge.embed_engine_in_new_module(plan_of(c), input_names=["q"]), "no input 'q'.*x, scale",
    ),
    # compiled modules
    "an option misspelt": (lambda _, c: bridge.configure(c, cuda_graph=True), "'cuda_graph'.*did you mean cuda_graphs"),
    "an option of another kind": (lambda _, c: bridge.configure(c, cuda_graphs="yes"), "cuda_graphs: expected True or"),
    "a profile that is no number": (
        lambda _, c: bridge.configure(c, profile="first"),
        "profile: expected a whole number",
    ),
    "plans in a number": (lambda _, c: bridge.configure(c, plan_folder=3), "plan_folder: expected a path, got 3"),
    "a module without engines": (lambda m, _: bridge.configure(m, profile=0), "no engine.*compile it first"),
    "nothing to configure": (lambda *_: bridge.configure(None, profile=0), "expected a compiled module, got NoneType"),
    "nothing to inspect": (lambda *_: bridge.inspect(None), "subject: a NoneType cannot be inspected"),
    "a file that is not there": (lambda *_: bridge.inspect("missing.ts"), "there is no file missing.ts"),
    "nothing as a module": (lambda *_: bridge.as_module(None), "as_module: expected a compiled module, got NoneType"),
    "rebuilding by nobody": (lambda _, c: bridge.rebuild(c, backend="ort"), "backend"),
    "nothing to rebuild": (lambda *_: bridge.rebuild(None), "rebuild: expected a compiled module, got NoneType"),
    # tools
    "a side that is none": (lambda _, c: bridge.compare(None, c, (X, SCALE)), "reference: NoneType cannot be compared"),
    "calls with too little": (lambda m, c: bridge.compare(m, c, (X,)), "does not run on these inputs.*'scale'"),
    "a tolerance as text": (lambda m, c: bridge.compare(m, c, (X, SCALE), rtol="small"), "rtol: .*got 'small'"),
    "a folder as interpreter": (
        lambda m, c: bridge.compare(m, c, (X, SCALE), python="/"), "python: there is no interpreter /",
    ),
    "modules that fail": (lambda m, c: bridge.compare(Fails(), c, (X,)), "Fails does not run on these inputs.*ouch"),
    "nothing that comes out": (lambda *_: bridge.compare(Empty(), Empty(), (X,)), "neither .* gives a tensor"),
    "modules without forward": (
        lambda *_: bridge.compare(torch.jit.script(Other()), Empty(), (X,)), "without forward cannot be called",
    ),
    "a report's name": (lambda _, c: bridge.compare(c, c, (X, SCALE)).save(3), r"save: expected a file's name, got 3"),
    "limits as a number": (lambda _, c: bridge.diff(c, c).exceeded(3), r"limits: expected words, got 3 \(int\)"),
    "a diff of nothing": (lambda _, c: bridge.diff(None, c), "a: a NoneType is nothing that can be compared"),
    "debugging nothing": (lambda *_: bridge.debug(None, (X, SCALE)), "module: NoneType cannot be compiled"),
    "debugging with too little": (lambda m, _: bridge.debug(m, (X,)), r"forward\(x, scale\) needs scale"),
    "breakpoints as a number": (lambda m, _: bridge.debug(m, (X, SCALE), breakpoints=3), "breakpoints: .*got 3"),
    "a tolerance below 0": (lambda m, _: bridge.debug(m, (X, SCALE), tolerance=-1), "tolerance: .*from 0, got -1"),
    "weights as text": (
        lambda m, _: bridge.report_bundle(m, "r.zip", INPUTS, keep_weights="no"), "keep_weights: expected True or",
    ),
    "graphs as text": (lambda _, c: bridge.as_module(c, cuda_graphs="no"), "cuda_graphs: expected True or False"),
    "a bundle of nothing": (lambda *_: bridge.report_bundle(None, "r.zip"), "module: expected a module, got None"),
    "a bundle of what is no module": (
        lambda m, _: bridge.report_bundle(m, "r.zip", INPUTS, compiled=3), "compiled: expected a module, got int",
    ),
    "no bundle": (lambda *_: bridge.Bundle.open(None), "None is no support bundle"),
    "a bundle without a place": (
        lambda m, _: bridge.report_bundle(m, None),
        "path: expected a file's name, got NoneType",
    ),
    "profiling nothing": (lambda *_: bridge.profile(None, (X,)), "profile: expected a compiled module, got NoneType"),
    "profiling with too little": (lambda _, c: bridge.profile(c, (X,)), "does not run on these inputs.*'scale'"),
    "less than no warm-up": (
        lambda _, c: bridge.profile(c, (X, SCALE), warm_up=-1), "warm_up: expected .* of at least 0, got -1",
    ),
    "no runs": (
        lambda _, c: bridge.profile(c, (X, SCALE), runs=0),
        "runs: expected a whole number of at least 1, got 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "told"), WRONG.values(), ids=WRONG)
def test_wrong_calls_are_explained(
    module: torch.jit.ScriptModule, compiled: torch.jit.ScriptModule, call: Callable[..., object], told: str
) -> None:
    with pytest.raises(bridge.BridgeError, match=f"(?s){told}"):
        call(module, compiled)


class Views(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.relu(x)
        return y.view(2, 4) * 2


@pytest.mark.parametrize("form", ["plain", "scripted", "traced", "saved"])
def test_a_module_that_does_not_run_is_told_with_its_line(form: str, tmp_path: pathlib.Path) -> None:
    module: Any = Views().eval()
    if form in ("scripted", "saved"):
        module = torch.jit.script(module)
    if form == "traced":
        module = torch.jit.trace(module, X, check_trace=False)
    if form == "saved":
        module.save(tmp_path / "views.ts")
        module = torch.jit.load(tmp_path / "views.ts")
    line = inspect.getsourcelines(Views.forward)[1] + 2
    with pytest.raises(bridge.SpecError, match=rf"(?s)does not run.*at: test_wrong_calls.py:{line} in forward; .*3x4"):
        bridge.compile(module, [(3, 4)], backend="onnxruntime")


CALLS = {
    "rank": ((torch.ones(2, 4, 1), SCALE), r"input 'x' has rank 3 \(2x4x1\); the engine takes rank 2"),
    "size": ((torch.ones(9, 4), SCALE), "input 'x' has shape 9x4; dimension 0 is 9 and may be"),
    "fixed size": ((torch.ones(2, 5), SCALE), "input 'x' has shape 2x5; dimension 1 is 5 and may be 4"),
    "dtype": ((X.long(), SCALE), "input 'x' has dtype int64; it may be float32"),
    "count": ((X,), "missing value for argument 'scale'"),
    "nothing": ((None, SCALE), "input 'x' is None"),
    "kind": (([1, 2], SCALE), "Expected a value of type 'Tensor' for argument 'x'"),
}


@pytest.mark.parametrize(("arguments", "told"), CALLS.values(), ids=CALLS)
def test_calls_of_compiled_modules(compiled: torch.jit.ScriptModule, arguments: tuple[Any, ...], told: str) -> None:
    """TorchScript wraps the EngineError of an operator into an error of its own, which holds the text."""
    with pytest.raises(RuntimeError, match=told):
        compiled(*arguments)


def test_names_of_nothing_are_warned_about(module: torch.jit.ScriptModule, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"torch_executed_ops": ["aten::rellu"], "torch_executed_modules": ["liner", "Linear"]}
    bridge.compile(module, INPUTS, backend="onnxruntime", **settings)
    told = " ".join(record.getMessage() for record in caplog.records)
    assert "torch_executed_ops: no operator of this module is called 'aten::rellu'; did you mean 'aten::relu'?" in told
    assert "no module of this module is called 'liner'; did you mean 'linear'?" in told and "'Linear'" not in told


def test_names_of_no_layer_to_be_kept_in_fp32_are_warned_about(
    module: torch.jit.ScriptModule, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"precision": torch.float16, "keep_fp32": ["liner", "linear", "Relu", "*aten::relu*"]}
    bridge.compile(module, INPUTS, backend="onnxruntime", **settings)
    told = "keep_fp32: no layer and no operator of ONNX of this module is called 'liner'; did you mean 'linear'?"
    assert told in caplog.text and caplog.text.count("keep_fp32:") == 1


def test_what_torch_compile_wraps_is_compiled(module: torch.jit.ScriptModule) -> None:
    plain = Scaled().eval()
    compiled = bridge.compile(torch.compile(plain), INPUTS, backend="onnxruntime")
    assert isinstance(compiled, torch.jit.ScriptModule)
    torch.testing.assert_close(compiled(X, SCALE), plain(X, SCALE))


def test_what_is_compiled_already_is_told(compiled: torch.jit.ScriptModule, caplog: pytest.LogCaptureFixture) -> None:
    again = bridge.compile(compiled, INPUTS, backend="onnxruntime", precision=torch.float16)
    assert "has engines already" in caplog.text and torch.equal(again(X, SCALE), compiled(X, SCALE))
    (engine,) = bridge.check_method_op_support(compiled, "forward", INPUTS).unsupported
    assert engine.operator == "bridge::execute_engine" and engine.reason == "it is an engine already"
