"""Building the engines of a compiled module anew: for another GPU, another version of TensorRT, another backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import torch

from bridge import backends
from bridge.backends.base import BuildSettings, Progress
from bridge.backends.weights import Array, detach_weights, with_weights
from bridge.errors import BridgeError
from bridge.runtime.calls import engine_calls
from bridge.runtime.module import checked_module
from bridge.runtime.op import replace_plan
from bridge.runtime.plan import Plan
from bridge.runtime.record import replace_digests
from bridge.runtime.session_onnxruntime import MODEL
from bridge.runtime.session_onnxruntime import WEIGHT as MODEL_WEIGHT

ONNX = "onnx"
WEIGHT = "onnx-weight:"


def keep_onnx(plan: Plan, graph: gs.Graph) -> Plan:
    """The plan with the graph that it was built from in further sections; both are copied."""
    model, weights = detach_weights(graph)
    kept = {ONNX: model.SerializeToString(), **{WEIGHT + name: array for name, array in weights.items()}}
    return Plan.pack(plan.header, {**{name: plan.section(name) for name in plan.section_names()}, **kept})


def rebuild(
    module: torch.nn.Module,
    *,
    backend: str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> None:
    """Builds every engine of a module anew, here and for this GPU, from the graph that its plan keeps.

    A module that was compiled with ``keep_onnx=True`` takes it along: it can be compiled on a machine without a GPU and
    built where it is to run, or built again after an update of TensorRT.

    Args:
        module: what ``bridge.compile`` or ``torch.jit.load`` gave; changed in place, with every copy that shares its
            engines. Saved afterwards it holds the new ones.
        backend: which one builds; None: the one that built before.
        progress: hears about the phases of each build.
        settings: of :class:`bridge.backends.base.BuildSettings`, over those of the build before.

    Raises:
        BridgeError: the module has no engine, or a plan keeps no graph; nothing is changed then.
        BuildError: the backend did not build a graph; nothing is changed then either.
    """
    calls = engine_calls(checked_module(module, "rebuild"))
    if not calls:
        raise BridgeError("this module has no engine", where="rebuild")
    if backend is not None:
        backends.select(backend).require()
    plans = [Plan.from_tensor(call.plan) for call in calls]
    distinct = {plan.digest: plan for plan in plans}
    built = {digest: _built(plan, backend, progress, settings) for digest, plan in distinct.items()}
    for call, plan in zip(calls, plans, strict=True):
        replace_plan(call.plan, built[plan.digest].to_tensor())
    replace_digests(module, {digest: plan.digest for digest, plan in built.items()})


def _built(plan: Plan, backend: str | None, progress: Progress | None, settings: Mapping[str, Any]) -> Plan:
    graph = _graph_of(plan)
    device = {"device": torch.cuda.current_device()} if torch.cuda.is_available() else {}
    known = {name: value for name, value in plan.header.settings.items() if name != "timing_cache"}
    wanted = BuildSettings(**{**known, **device, **settings})
    made = backends.select(backend or plan.header.backend).build(graph, plan.header.profiles, wanted, progress)
    return keep_onnx(made, graph)


def _graph_of(plan: Plan) -> gs.Graph:
    kept = _kept(plan, ONNX, WEIGHT)
    if kept is None:
        raise BridgeError(
            "an engine of this module keeps no graph to build from",
            where="rebuild",
            hint="compile with keep_onnx=True, or compile the original again",
        )
    return gs.import_onnx(with_weights(*kept))


def graph_inside(plan: Plan) -> tuple[onnx.ModelProto, dict[str, Array]] | None:
    """The ONNX graph that a plan was built from and its weights, in place; None where it keeps none.

    ONNX Runtime's plans are such a graph; those of others keep one when they were built with ``keep_onnx=True``.
    """
    runs_it = plan.header.backend == "onnxruntime"
    return _kept(plan, ONNX, WEIGHT) or (_kept(plan, MODEL, MODEL_WEIGHT) if runs_it else None)


def _kept(plan: Plan, model_section: str, weight_prefix: str) -> tuple[onnx.ModelProto, dict[str, Array]] | None:
    """The model in a section of a plan, and its weights, which are views of the plan; None without that section."""
    if model_section not in plan.section_names():
        return None
    model = onnx.ModelProto.FromString(plan.section(model_section).tobytes())
    outside = [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    weights = {}
    for tensor in outside:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        weights[tensor.name] = plan.section(weight_prefix + tensor.name).view(dtype).reshape(tuple(tensor.dims))
    return model, weights
