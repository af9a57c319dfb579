"""The one object that says how a module is to be compiled."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from bridge.errors import SpecError
from bridge.spec import settings as checks
from bridge.spec.aliases import KNOWN, RENAMED, translated
from bridge.spec.complaints import nearest, unknown, wrong
from bridge.spec.device import as_device
from bridge.spec.examples import example_tensor
from bridge.spec.inputs import Dims, Input
from bridge.spec.structure import Constant, Leaf, check_names, dynamic_axes, filled, leaves_of

Which = Literal["min", "opt", "max"]
_HALVES = (torch.float16, torch.bfloat16)

_CHECKS: dict[str, checks.Check] = {
    "inputs": checks.optional(checks.inputs),
    "kwarg_inputs": checks.keyword_inputs,
    "profiles": checks.profiles,
    "precision": checks.precision,
    "keep_fp32": checks.names,
    "fp32_accumulation": checks.flag,
    "backend": checks.one_of(*checks.BACKENDS),
    "require_full_compilation": checks.flag,
    "min_block_size": checks.whole_number(1),
    "torch_executed_ops": checks.operators,
    "torch_executed_modules": checks.modules,
    "device": checks.optional(as_device),
    "workspace_size": checks.optional(checks.size_in_bytes),
    "optimization_level": checks.optional(checks.whole_number(0, 5)),
    "timing_cache": checks.optional(checks.file_path),
    "keep_onnx": checks.flag,
    "disable_tf32": checks.flag,
    "profiling_verbosity": checks.verbosity,
    "output_names": checks.optional(checks.names),
    "rules": checks.rules,
    "disabled_rules": checks.names,
    "target": checks.optional(checks.target),
    "truncate_double": checks.flag,
    "cuda_graphs": checks.optional(checks.flag),
    "hardware_compatible": checks.flag,
    "version_compatible": checks.flag,
    "sparse_weights": checks.flag,
    "max_aux_streams": checks.optional(checks.whole_number(0)),
    "cache_dir": checks.optional(checks.file_path),
    "progress": checks.optional(checks.callback),
    "argument_names": checks.optional(checks.names),
}


class _Translating(type):
    """Lets the constructor take the names of other compilers and refuse unknown ones as a SpecError."""

    def __call__(cls, *args: Any, **given: Any) -> Any:
        return super().__call__(*args, **_known(translated(given)))


@dataclasses.dataclass(eq=False, repr=False)
class CompileSpec(metaclass=_Translating):
    """How a module is to be compiled. Every field is checked when it is set; an unknown one is a `SpecError`.

    Torch-TensorRT's names (``enabled_precisions``, ``arg_inputs``, ...) and TRTorch's (``input_shapes``,
    ``op_precision``) stand for ours.

    Args:
        inputs: one item per positional argument: `Input`, tensor, shape, {"min", "opt", "max"}, a nest of these, or a
            constant (`bridge.spec.structure` has the rules). None: not given.
        kwarg_inputs: the same for arguments passed by name.
        precision: what floating arithmetic is done in: float32, float16 or bfloat16.
        keep_fp32: what stays in float32 beside what must: modules by path (``"layer4"``), patterns of layer names
            (``"*aten::linear*"``), which begin with that path, or operators of ONNX (``"Conv"``).
        backend: "auto", "tensorrt", "tensorrt_rtx" or "onnxruntime".
        profiles: ranges of dynamic dimensions that engines are optimised for one by one, each a dict of (min, opt, max)
            by the dimension's name, such as ``[{"batch": (1, 1, 1)}, {"batch": (2, 16, 32)}]``; a call uses the first
            that holds its shapes. None given: one, over all of the inputs' ranges.
        require_full_compilation: refuse what cannot become one whole engine. Its results are new tensors, also where
            PyTorch's would share memory with an input or with each other.
        min_block_size: operators that a part must have to be worth an engine.
        torch_executed_ops: operators left to PyTorch.
        torch_executed_modules: submodules (paths or types) left to PyTorch.
        device: where the module is to run; None: where it is, or the current GPU.
        workspace_size: most scratch memory of an engine, in bytes or as "2GiB"; None: the backend's own choice.
        optimization_level: TensorRT's, 0 (quick build) to 5; None: its default.
        timing_cache: file that keeps TensorRT's kernel timings from one build to the next.
        keep_onnx: keep the graph that an engine is built from beside it: `bridge.rebuild` can build it elsewhere.
        disable_tf32: compute float32 without TensorFloat-32.
        profiling_verbosity: what an engine tells about its layers: "none", "layer_names_only" or "detailed".
        output_names: names of the engine's outputs, in order; None: those of the module.
        rules: further rewrite rules.
        disabled_rules: names of rewrite rules that are not to run.
        target: compiler and version whose parser decides what is supported ("tensorrt:10.6"); None: the installed one.
        truncate_double: compute float64 as float32.
        cuda_graphs: capture calls as CUDA graphs, and replay them, with copies of inputs and outputs unless their
            addresses come again. None: only calls that come again with the same addresses, of engines that do no work
            on the host.
        hardware_compatible: build an engine that also runs on other GPUs of the Ampere generation and later.
        version_compatible: build an engine that later versions of TensorRT also run.
        sparse_weights: use kernels for 2:4 structured sparsity where the weights have it.
        fp32_accumulation: add products of matrices in sixteen bits up in float32, as eager PyTorch does; without,
            TensorRT does what is faster.
        max_aux_streams: most streams beside the caller's that TensorRT may use; None: its own choice.
        cache_dir: directory that keeps engines: the same graph with the same weights and settings is not built twice,
            for the same GPU and versions; None: none is kept.
        progress: called with (stage, steps done, steps in all) during export and build.
        argument_names: names of the module's positional arguments; `bind_names` sets them.
    """

    inputs: Any = None
    precision: Any = torch.float32
    keep_fp32: Sequence[str] = ()
    backend: str = "auto"
    kwarg_inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    profiles: Sequence[Mapping[str, Sequence[int]]] = ()
    require_full_compilation: bool = False
    min_block_size: int = 1
    torch_executed_ops: Sequence[str] = ()
    torch_executed_modules: Sequence[Any] = ()
    device: Any = None
    workspace_size: Any = None
    optimization_level: int | None = None
    timing_cache: str | Path | None = None
    keep_onnx: bool = False
    disable_tf32: bool = False
    profiling_verbosity: Literal["none", "layer_names_only", "detailed"] = "detailed"
    output_names: Sequence[str] | None = None
    rules: Sequence[Any] = ()
    disabled_rules: Sequence[str] = ()
    target: str | None = None
    truncate_double: bool = False
    cuda_graphs: bool | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    sparse_weights: bool = False
    fp32_accumulation: bool = False
    max_aux_streams: int | None = None
    cache_dir: str | Path | None = None
    progress: Callable[[str, int, int], None] | None = None
    argument_names: Sequence[str] | None = None

    _module_dtype: ClassVar[torch.dtype | None] = None

    def __setattr__(self, name: str, value: object) -> None:
        for known, given in _known(translated({name: value})).items():
            settled = _CHECKS[known](known, given)
            before = self.__dict__.get(known)
            object.__setattr__(self, known, settled)
            if known in ("inputs", "kwarg_inputs") and "argument_names" in self.__dict__:
                self._check_inputs(known, before)

    def __getattr__(self, name: str) -> Any:
        if name in RENAMED:
            return getattr(self, RENAMED[name])
        raise AttributeError(f"CompileSpec has no field {name!r}")

    def __post_init__(self) -> None:
        self.flat_inputs()

    def __repr__(self) -> str:
        shown = [
            f"{field.name}={value!r}"
            for field in dataclasses.fields(self)
            if not _is_default(field, value := getattr(self, field.name))
        ]
        return f"CompileSpec({', '.join(shown)})"

    @classmethod
    def of(cls, spec: Any = None, settings: Mapping[str, Any] | None = None) -> CompileSpec:
        """One CompileSpec from every form a user may give, with ``settings`` (keywords) on top.

        Args:
            spec: None, a CompileSpec (copied), a dict of settings, or a list of inputs (also one Input or tensor).
            settings: further settings, which win over a CompileSpec's own.
        """
        given = _known(translated(dict(settings or {})))
        if isinstance(spec, CompileSpec):
            return dataclasses.replace(spec, **given)
        own = _settings_of(spec)
        twice = sorted(set(own) & set(given))
        if twice:
            raise SpecError(f"{twice[0]}: given twice, in the spec and as a keyword", hint="give it once")
        return cls(**own, **given)

    def flat_inputs(self, default_dtype: torch.dtype = torch.float32) -> list[Leaf]:
        """Every input tensor and constant, positional ones first, in order.

        Args:
            default_dtype: the dtype of inputs that state none.

        Raises:
            SpecError: for two inputs of one name, or a shared dimension with two ranges.
        """
        found = [_leaf(*parts, default_dtype=default_dtype) for parts in self._parts()]
        check_names(found)
        return found

    def dimensions(self) -> dict[str, tuple[int, int, int]]:
        """(min, opt, max) of every dynamic dimension, by name."""
        leaves = self.flat_inputs()
        return {str(leaf.dims[axis]): bounds for leaf in leaves for axis, bounds in dynamic_axes(leaf).items()}

    def profile_ranges(self) -> list[dict[str, tuple[int, int, int]]]:
        """(min, opt, max) of every dynamic dimension, by name, in each profile; no profile where none is given.

        Raises:
            SpecError: a profile names a dimension that no input has, or goes beyond that dimension's range.
        """
        known = self.dimensions()
        for index, profile in enumerate(self.profiles):
            for name, (low, _, high) in profile.items():
                field = f"profiles[{index}][{name!r}]"
                if not known:
                    told = f"{field}: no input has a dynamic dimension"
                    raise SpecError(told, hint="give the input min_shape, opt_shape and max_shape")
                if name not in known:
                    raise unknown(field, name, tuple(known))
                if low < known[name][0] or high > known[name][2]:
                    told = f"{field}: {low} to {high} goes beyond the inputs' {known[name][0]} to {known[name][2]}"
                    raise SpecError(told, hint="widen min_shape and max_shape of the input")
        return [{**known, **profile} for profile in self.profiles]  # type: ignore[dict-item]

    def nest(self, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) for a call, with one value per leaf of `flat_inputs` in the places of the leaves."""
        remaining = iter(values)
        args = tuple(filled(item, remaining) for item in self.inputs or ())
        return args, {name: filled(item, remaining) for name, item in self.kwarg_inputs.items()}

    def example_inputs(
        self, which: Which = "opt", seed: int = 0, default_dtype: torch.dtype = torch.float32
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) to call the module with: the smallest, the usual or the largest shapes.

        Given examples are copied where the shape is theirs; the rest is drawn from ``seed``.
        """
        generator = torch.Generator().manual_seed(seed)
        widened = _HALVES if self.precision in _HALVES and self._module_dtype is torch.float32 else ()

        def example(leaf: Leaf) -> Any:
            if not leaf.is_tensor:
                return leaf.value
            # exporters take one tensor given twice, or a module's own, for one value
            example = _example(leaf, getattr(leaf, f"{which}_shape"), generator).detach().clone()
            return example.float() if leaf.dtype in widened else example

        return self.nest([example(leaf) for leaf in self.flat_inputs(default_dtype)])

    def computed_in(self, dtype: torch.dtype | None) -> CompileSpec:
        """A copy for a module whose parameters have this dtype.

        An FP32 module that is compiled for half precision may be given half inputs: the engine takes them so, while the
        module itself, run on `example_inputs`, gets FP32.
        """
        bound = copy.copy(self)
        object.__setattr__(bound, "_module_dtype", dtype)
        return bound

    def bind_names(
        self, argument_names: Sequence[str], *, optional: Collection[str] = (), method: str = "forward"
    ) -> CompileSpec:
        """A copy whose positional inputs carry the names of the method's arguments.

        Args:
            argument_names: all arguments that may be given, in order, without self.
            optional: those that have a default.
            method: its name, for messages.

        Raises:
            SpecError: for an input too many, an argument without an input, or an unknown keyword.
        """
        signature = f"{method}({', '.join(argument_names)})"
        count = len(self.inputs or ())
        if count > len(argument_names):
            extra = f"inputs[{len(argument_names)}]"
            raise SpecError(f"{extra}: no such argument; {signature} takes {len(argument_names)}, {count} are given")
        for name in self.kwarg_inputs:
            if name not in argument_names:
                raise unknown("kwarg_inputs", name, argument_names)
            if name in argument_names[:count]:
                raise SpecError(f"kwarg_inputs[{name!r}]: also given as inputs[{list(argument_names).index(name)}]")
        missing = [n for n in argument_names[count:] if n not in self.kwarg_inputs and n not in optional]
        if missing:
            told = f"inputs: {signature} needs {', '.join(missing)}; given: {_given(count, self.kwarg_inputs)}"
            raise SpecError(told, hint="add one item to inputs for each, or name it in kwarg_inputs")
        bound = copy.copy(self)
        bound.argument_names = tuple(argument_names)
        bound.flat_inputs()
        return bound

    def _parts(self) -> Iterator[tuple[str, tuple[Any, ...], str, Input | Constant]]:
        named = tuple(self.argument_names or ())
        for index, item in enumerate(self.inputs or ()):
            name = named[index] if index < len(named) else f"input_{index}"
            yield from leaves_of(item, name, (index,), f"inputs[{index}]")
        for name, item in self.kwarg_inputs.items():
            yield from leaves_of(item, name, (name,), f"kwarg_inputs[{name!r}]")

    def _check_inputs(self, field: str, before: object) -> None:
        try:
            self.flat_inputs()
        except SpecError:
            object.__setattr__(self, field, before)
            raise


FIELDS = tuple(field.name for field in dataclasses.fields(CompileSpec))


def _example(leaf: Leaf, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    assert leaf.dtype is not None
    try:
        return example_tensor(leaf.value, shape, leaf.dtype, generator)
    except (RuntimeError, MemoryError) as error:
        told = f"{leaf.field}: no example of shape {shape} could be made"
        why = (str(error).strip() or "there is no memory").splitlines()[0]
        raise SpecError(told, why=why, hint="give smaller shapes, or an example") from error


def _known(given: dict[str, Any]) -> dict[str, Any]:
    for name in given:
        if name not in _CHECKS:
            guess = nearest(name, (*_CHECKS, *KNOWN))
            listed = "its fields: " + ", ".join(_CHECKS) + "; inputs by the arguments' names go into kwarg_inputs"
            raise SpecError(f"CompileSpec: no field {name!r}", hint=f"did you mean {guess!r}?" if guess else listed)
    return given


def _settings_of(spec: Any) -> dict[str, Any]:
    if spec is None:
        return {}
    if isinstance(spec, Mapping):
        if not all(isinstance(name, str) for name in spec):
            raise wrong("spec", spec, "a dict of settings, by name")
        if set(spec) == {"min", "opt", "max"}:
            raise SpecError("spec: a range of shapes stands where the settings belong", hint="put it in a list")
        return _known(translated(dict(spec)))
    if isinstance(spec, str):
        raise wrong("spec", spec, "a CompileSpec, a dict of settings or a list of inputs")
    return {"inputs": spec}


def _leaf(name: str, path: tuple[Any, ...], field: str, item: Input | Constant, *, default_dtype: torch.dtype) -> Leaf:
    if isinstance(item, Constant):
        return Leaf(name, path, field, item.value, None, ())
    return Leaf(name, path, field, item, item.dtype or default_dtype, _dims(item, name))


def _dims(item: Input, name: str) -> Dims:
    """The dimensions, with a name for every dynamic one."""
    plain = re.sub(r"\W", "_", name)
    return tuple(f"{plain}_dim{axis}" if size == -1 else size for axis, size in enumerate(item.shape))


def _is_default(field: dataclasses.Field[Any], value: object) -> bool:
    default = {} if field.name == "kwarg_inputs" else field.default
    return type(value) is type(default) and value == default


def _given(count: int, keywords: Mapping[str, Any]) -> str:
    named = "".join(f", {name}" for name in keywords)
    return f"{count} positional{named}"
