"""What acts on a compiled or loaded module: TorchScript modules take no new methods, so these are functions."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import warnings
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from bridge.errors import BridgeError, EngineError, SpecError
from bridge.runtime.bindings import TITLES
from bridge.runtime.calls import engine_calls
from bridge.runtime.fx_view import fx_view
from bridge.runtime.op import set_options
from bridge.runtime.plan import Binding, Plan
from bridge.runtime.plan_files import move_to_file
from bridge.runtime.raw_engine import plan_of_engine
from bridge.runtime.signature import UNKNOWN, InputSignature, OutputSignature, Range, Signature
from bridge.runtime.whole_graph import GraphedModule


def as_module(compiled: torch.nn.Module, *, cuda_graphs: bool = False) -> torch.nn.Module:
    """A module that torch.compile and torch.export see through, down to the calls of its engines.

    Args:
        compiled: what ``bridge.compile`` gave, or what ``torch.jit.load`` gave back.
        cuda_graphs: instead, a module whose calls are captured and replayed as one CUDA graph each, engines and what
            PyTorch runs between them: see :class:`bridge.runtime.whole_graph.GraphedModule`.

    Raises:
        ExportError: the module kept a branch or a loop in PyTorch, which neither can take from TorchScript.
    """
    checked_module(compiled, "as_module")
    if not isinstance(cuda_graphs, bool):
        raise SpecError(f"cuda_graphs: expected True or False, got {cuda_graphs!r} ({type(cuda_graphs).__name__})")
    mode = bool(getattr(compiled, "training", False))  # a frozen module has none
    if cuda_graphs:
        return GraphedModule(compiled).train(mode)
    if isinstance(compiled, torch.jit.ScriptModule):
        return fx_view(compiled).train(mode)
    outside = copy.copy(compiled)
    outside._modules = {name: part and as_module(part) for name, part in compiled._modules.items()}
    return outside


def configure(module: torch.nn.Module, *, plan_folder: str | PathLike[str] | None = None, **options: Any) -> None:
    """Changes how a compiled module runs, from its next call on; a module that is saved afterwards keeps the change.

    Args:
        module: what ``bridge.compile`` or ``torch.jit.load`` gave; changed in place, with every copy that shares its
            engines.
        plan_folder: where the plans go, out of this process's memory, into files that must stay while it lives.
        options: ``profile`` and ``cuda_graphs``: see :class:`bridge.runtime.session.RunOptions`.

    Raises:
        SpecError: there is no such option.
        BridgeError: the module has no engine.
    """
    known = list(_VALUES)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1) or known
            raise SpecError(
                f"there is no option {name!r}", where="configure", hint=f"did you mean {' or '.join(near)}?"
            )
    _check_values(options)
    if not isinstance(plan_folder, str | PathLike | None):
        raise SpecError(f"plan_folder: expected a path, got {plan_folder!r} ({type(plan_folder).__name__})")
    calls = engine_calls(checked_module(module, "configure"))
    if not calls:
        raise BridgeError(
            "this module has no engine", where="configure", hint="compile it first: bridge.compile(module, ...)"
        )
    for call in calls:
        if plan_folder is not None:
            move_to_file(call.plan, Path(plan_folder))
        set_options(call.plan, options)
        changed = dataclasses.replace(call.signature, options={**call.signature.options, **options})
        call.write_signature(changed.to_json())


def _check_values(options: dict[str, Any]) -> None:
    for name, value in options.items():
        is_right, expected = _VALUES[name]
        if value is not None and not is_right(value):
            raise SpecError(f"{name}: expected {expected}, got {value!r} ({type(value).__name__})")


_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "profile": (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
        "a whole number from 0, or None for the first that fits",
    ),
    "cuda_graphs": (lambda value: isinstance(value, bool), "True or False, or None for where calls repeat"),
}
"""What each of a run's options may be."""


def checked_module(module: Any, where: str) -> torch.nn.Module:
    """The argument, if it is a module.

    Raises:
        SpecError: it is none.
    """
    if not isinstance(module, torch.nn.Module):
        told = f"{where}: expected a compiled module, got {type(module).__name__}"
        raise SpecError(told, hint="what bridge.compile or torch.jit.load gave")
    return module


class _Holder(torch.nn.Module):
    """A plan as an attribute that is no buffer: ``.to(device)`` leaves it on the host, ``state_dict`` leaves it out."""

    def __init__(self, plan: torch.Tensor) -> None:
        super().__init__()
        self.plan = plan


def embed_engine_in_new_module(
    engine: bytes | bytearray | memoryview | Plan,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    backend: str = "tensorrt",
    device: int = 0,
) -> torch.jit.ScriptModule:
    """A TorchScript module around an engine that was built elsewhere.

    Its forward method takes the engine's inputs as tensors, in the order of ``input_names``, and gives back one tensor,
    or a tuple when there are several outputs.

    Args:
        engine: a serialized engine of TensorRT, a plan of bridge, or the bytes of one.
        input_names: the engine's input names in the order in which forward takes them; None: the engine's own order.
        output_names: the outputs that forward gives back, in this order; None: all.
        backend: ``"tensorrt"`` or ``"tensorrt_rtx"``: what a serialized engine is for.
        device: index of the GPU on which a serialized engine is opened, to read its names, dtypes and shapes.

    Raises:
        EngineError: the engine cannot be opened here, or has no binding of a name given.
    """
    for field, names in (("input_names", input_names), ("output_names", output_names)):
        if names is not None and (isinstance(names, str) or not isinstance(names, Sequence)):
            raise SpecError(f"{field}: expected a list of names, got {names!r} ({type(names).__name__})")
    if isinstance(device, bool) or not isinstance(device, int) or device < 0:
        raise SpecError(f"device: expected the index of a GPU, got {device!r} ({type(device).__name__})")
    plan = _plan_of(engine, backend, device)
    signature = plan_signature(plan, input_names, output_names)
    if isinstance(engine, bytes | bytearray | memoryview) and not Plan.is_plan(engine):
        # of what others built it is not known whether something in it runs on the host
        signature = dataclasses.replace(signature, options={"cuda_graphs": False})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated", module="torch")
        # TorchScript gives modules of one class one type, and these have a forward method of their own each
        holder = type("Engine", (_Holder,), {})(plan.to_tensor())
        module: torch.jit.ScriptModule = torch.jit.script(holder.eval())
        module.define(_forward(signature))
    return module


def _forward(signature: Signature) -> str:
    """TorchScript for a forward method that calls the engine."""
    names = [f"x{index}" for index in range(len(signature.inputs))]
    results = [f"results[{index}]" for index in range(len(signature.outputs))]
    several = len(results) > 1
    parameters = "".join(f", {name}: Tensor" for name in names)
    returned = f"Tuple[{', '.join(['Tensor'] * len(results))}]" if several else "Tensor"
    body = f"({', '.join(results)})" if several else results[0]
    return (
        f"def forward(self{parameters}) -> {returned}:\n"
        f"    results = torch.ops.bridge.execute_engine([{', '.join(names)}], self.plan, {signature.to_json()!r})\n"
        f"    return {body}\n"
    )


def _plan_of(engine: bytes | bytearray | memoryview | Plan, backend: str, device: int) -> Plan:
    if isinstance(engine, Plan):
        return engine
    if not isinstance(engine, bytes | bytearray | memoryview):
        told = f"engine: expected the bytes of an engine or a plan, got {type(engine).__name__}"
        raise SpecError(told, hint="pathlib.Path(path).read_bytes()")
    if backend not in TITLES:
        raise SpecError(f"backend: {backend!r} has no serialized engines", hint=f"one of {', '.join(TITLES)}")
    return Plan.from_bytes(engine) if Plan.is_plan(engine) else plan_of_engine(engine, backend, device)


def plan_signature(
    plan: Plan, input_names: Sequence[str] | None = None, output_names: Sequence[str] | None = None
) -> Signature:
    """The signature that a plan's own header gives: ranges from its profiles, output sizes where a name says which.

    Raises:
        EngineError: a name is none of the plan's.
    """
    inputs = _chosen(plan.header.inputs, input_names, "input")
    places = {
        dim: f"i{index}.{axis}"
        for index, binding in reversed(list(enumerate(inputs)))
        for axis, dim in enumerate(binding.shape or ())
        if isinstance(dim, str) and dim != UNKNOWN
    }
    outputs = [
        OutputSignature(
            binding.name,
            binding.dtype,
            None
            if binding.shape is None
            else tuple(places.get(dim, UNKNOWN) if isinstance(dim, str) else dim for dim in binding.shape),
        )
        for binding in _chosen(plan.header.outputs, output_names, "output")
    ]
    return Signature(tuple(_input(plan, binding) for binding in inputs), tuple(outputs))


def _chosen(bindings: Sequence[Binding], names: Sequence[str] | None, kind: str) -> list[Binding]:
    table = {binding.name: binding for binding in bindings}
    unknown = [name for name in names or () if name not in table]
    missing = [name for name in table if names is not None and kind == "input" and name not in names]
    if unknown or missing:
        raise EngineError(
            f"the engine has no {kind} {unknown[0]!r}"
            if unknown
            else f"the engine's {kind} {missing[0]!r} is not named",
            hint=f"its {kind}s: {', '.join(table)}",
        )
    return list(bindings) if names is None else [table[name] for name in names]


def _input(plan: Plan, binding: Binding) -> InputSignature:
    profiles = [profile[binding.name] for profile in plan.header.profiles if binding.name in profile]
    if binding.shape is None or (not profiles and any(isinstance(dim, str) for dim in binding.shape)):
        return InputSignature(binding.name, binding.dtype)
    dims: list[int | Range] = []
    for axis, dim in enumerate(binding.shape):
        if isinstance(dim, int):
            dims.append(dim)
            continue
        low, high = min(item[0][axis] for item in profiles), max(item[2][axis] for item in profiles)
        dims.append(Range(low, profiles[0][1][axis], high, None if dim == UNKNOWN else dim))
    return InputSignature(binding.name, binding.dtype, (), tuple(dims))
