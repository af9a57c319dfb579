"""The operator that every compiled module calls.

Its schema, `bridge::execute_engine(Tensor[] inputs, Tensor plan, str signature) -> Tensor[]`, does not change: saved
modules hold it. What a call needs (the loaded engine, the checks that its shapes have passed, the casts) hangs on the
plan's Python object, which lives as long as the tensor: a call with shapes seen before looks up one dictionary, one
like the call before it not even that.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch

from bridge import torch_private as tp
from bridge.errors import EngineError
from bridge.runtime import native
from bridge.runtime.checks import check_devices, check_inputs
from bridge.runtime.dtypes import dtype_of
from bridge.runtime.plan import Plan
from bridge.runtime.session import RunOptions, Session, load, session_device
from bridge.runtime.signature import Signature

SCHEMA = "execute_engine(Tensor[] inputs, Tensor plan, str signature) -> Tensor[]"
_ATTRIBUTE = "_bridge_calls"
_MOST_ROUTES = 1024

_Key = tuple[tuple[torch.Size, torch.dtype, int, tuple[int, ...]], ...]


class _Route:
    """How inputs of certain shapes, dtypes, devices and layouts in memory reach an engine, all checks passed.

    An engine for the CPU takes inputs from a GPU, and gives its outputs there: slow, and right.
    """

    __slots__ = (
        "_prepared",
        "fits",
        "home",
        "input_casts",
        "input_devices",
        "input_formats",
        "order",
        "output_casts",
        "output_order",
        "run",
        "text",
    )

    def __init__(self, session: Session, text: str, inputs: list[torch.Tensor], options: Mapping[str, Any]) -> None:
        signature = Signature.from_json(text)
        self.text, self.fits = text, tp.like_these(inputs)
        self.home = next((tensor.device for tensor in inputs if tensor.is_cuda), session.device)
        names = {item.name: index for index, item in enumerate(signature.inputs)}
        self.order = [_position(names, binding.name, "input") for binding in session.inputs]
        self.input_casts = [dtype_of(binding.dtype) for binding in session.inputs]
        self.input_devices, self.input_formats = session.input_devices, session.input_formats
        places = {binding.name: index for index, binding in enumerate(session.outputs)}
        self.output_order = [_position(places, item.name, "output") for item in signature.outputs]
        self.output_casts = [dtype_of(item.dtype) for item in signature.outputs]
        self._prepared = session.prepare([inputs[index].shape for index in self.order], RunOptions.of(options))
        is_plain = (
            self.order == list(range(len(inputs)))
            and self.output_order == list(range(len(session.outputs)))
            and [tensor.dtype for tensor in inputs] == self.input_casts
            and [binding.dtype for binding in session.outputs] == [item.dtype for item in signature.outputs]
            and [tensor.device for tensor in inputs] == session.input_devices
            and all(
                tensor.is_contiguous(memory_format=wanted)
                for tensor, wanted in zip(inputs, session.input_formats, strict=True)
            )
        )
        self.run = self._prepared if is_plain else self._convert

    def _convert(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        if not torch.is_grad_enabled():
            return self._convert_and_run(inputs)
        with torch.no_grad():
            return self._convert_and_run(inputs)

    def _convert_and_run(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        chosen = [inputs[index] for index in self.order]
        ready = [
            tensor.to(device, dtype).contiguous(memory_format=wanted)
            for tensor, device, dtype, wanted in zip(
                chosen, self.input_devices, self.input_casts, self.input_formats, strict=True
            )
        ]
        outputs = self._prepared(ready)
        return [
            outputs[index].to(self.home, dtype)
            for index, dtype in zip(self.output_order, self.output_casts, strict=True)
        ]


def _position(places: dict[str, int], name: str, kind: str) -> int:
    if name not in places:
        raise EngineError(f"the plan and the signature of this engine disagree: {kind} {name!r} is in one of them only")
    return places[name]


class _Calls:
    """What hangs on a plan's tensor: its routes under the signature last used. A copy of the tensor starts anew."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.table: tuple[str, dict[_Key, _Route]] = ("", {})  # replaced as a whole, so that readers need no lock
        self.last: _Route | None = None
        self.lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Calls:
        return _Calls()

    def __reduce__(self) -> tuple[type[_Calls], tuple[()]]:
        return _Calls, ()

    def route(self, inputs: list[torch.Tensor], plan: torch.Tensor, text: str) -> _Route:
        """The way of a call that is not like the one before it."""
        try:
            key = tuple([(tensor.shape, tensor.dtype, tensor.get_device(), tensor.stride()) for tensor in inputs])
        except AttributeError:  # the dispatcher passes None
            name = Signature.from_json(text).inputs[next(i for i, one in enumerate(inputs) if one is None)].name
            raise EngineError(f"input {name!r} is None", hint="give a tensor") from None
        table = self.table
        route = table[1].get(key) if table[0] == text else None
        if route is None:
            return self._new_route(inputs, plan, text, key)
        if self.last is route:  # but for gradients or the state of the thread, it fits
            route.fits = tp.like_these(inputs)
        with self.lock:
            if self.table is table:  # options may have been set meanwhile
                self.last = route
        return route

    def _new_route(self, inputs: list[torch.Tensor], plan: torch.Tensor, text: str, key: _Key) -> _Route:
        """Checks a call whose shapes are new, and keeps the way it takes."""
        signature = Signature.from_json(text)
        check_inputs(signature, inputs)
        with self.lock:
            view = Plan.from_tensor(plan)
            device = session_device(view.header.backend, inputs)
            if view.header.backend != "onnxruntime":
                check_devices(signature, inputs, device)
            route = _Route(load(view, device), text, inputs, {**signature.options, **self.options})
            if text != self.table[0] or len(self.table[1]) >= _MOST_ROUTES:
                self.table = (text, {})
            self.table[1][key] = self.last = route
            return route

    def forget(self) -> None:
        """Lets the next call find its way anew."""
        self.table, self.last = ("", {}), None


def execute_engine(inputs: list[torch.Tensor], plan: torch.Tensor, signature: str) -> list[torch.Tensor]:
    """Runs the engine in ``plan`` on ``inputs``: the operator `bridge::execute_engine` for real tensors.

    Raises:
        EngineError: an input is not what the signature says, or the plan cannot be used here.
    """
    try:
        route: _Route = plan._bridge_calls.last  # type: ignore[attr-defined]
        is_like_the_last = route.fits(*inputs) and route.text == signature
    except (AttributeError, TypeError):  # the first call, or one with another number of inputs
        is_like_the_last = False
    if not is_like_the_last:
        route = _calls_of(plan).route(inputs, plan, signature)
    return route.run(inputs)


def run_through(session: Session, inputs: list[torch.Tensor], plan: torch.Tensor, signature: str) -> list[torch.Tensor]:
    """Runs another session on a call's inputs, with the checks, the casts, the order and the options of the call."""
    known = Signature.from_json(signature)
    check_inputs(known, inputs)
    return _Route(session, signature, inputs, {**known.options, **_calls_of(plan).options}).run(inputs)


def _calls_of(plan: torch.Tensor) -> _Calls:
    calls: _Calls = plan.__dict__.setdefault(_ATTRIBUTE, _Calls())
    return calls


def set_options(plan: torch.Tensor, options: Mapping[str, Any]) -> None:
    """Lets the calls of this plan, from the next one on, run with these options over those in their signature."""
    calls = _calls_of(plan)
    with calls.lock:
        calls.options = {**calls.options, **options}
        calls.forget()
    native.set_options(plan, options)


def replace_plan(plan: torch.Tensor, new: torch.Tensor) -> None:
    """Lets a plan's tensor, wherever a module holds it, be another plan from the next call on."""
    with torch.no_grad():
        plan.set_(new.to(plan.device))  # type: ignore[call-overload]
    set_options(plan, {})


def _fake(inputs: list[torch.Tensor], plan: torch.Tensor, signature: str) -> list[torch.Tensor]:
    """Outputs without their values: shapes and dtypes from the signature."""
    known = Signature.from_json(signature)
    shapes = known.output_shapes([tensor.shape for tensor in inputs])
    device = next(
        (tensor.device for tensor in inputs if tensor.is_cuda), inputs[0].device if inputs else torch.device("cpu")
    )
    outputs = []
    for out, shape in zip(known.outputs, shapes, strict=True):
        if shape is None:
            raise EngineError(
                f"output {out.name!r} has a rank that is known only after a run",
                why="tracing with fake tensors needs its rank",
            )
        sizes = [torch.library.get_ctx().new_dynamic_size() if size is None else size for size in shape]
        outputs.append(torch.empty(sizes, dtype=dtype_of(out.dtype), device=device))
    return outputs


def _register() -> torch.library.Library:
    """The operator; where the library in C++ has defined it, what that leaves to Python, under another name."""
    name = "execute_engine_in_python" if native.load() else "execute_engine"
    library = torch.library.Library("bridge", "DEF")
    library.define(SCHEMA.replace("execute_engine", name))
    for key in ("CPU", "CUDA"):
        library.impl(name, execute_engine, key)
    # engines are not differentiable: past the autograd layer, so that outputs never ask for a gradient
    past = torch.library.fallthrough_kernel
    library.impl(name, past, "Autograd")
    torch.library.register_fake("bridge::execute_engine", _fake, lib=library)
    return library


_library = _register()
