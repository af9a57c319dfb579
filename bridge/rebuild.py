"""Building the engines of a compiled module anew: for another GPU, another version of TensorRT, another backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import torch

from bridge import backends
from bridge.backends.base import BuildSettings, Progress
from bridge.backends.weights import detach_weights, with_weights
from bridge.errors import BridgeError
from bridge.runtime.calls import engine_calls
from bridge.runtime.op import replace_plan
from bridge.runtime.plan import Plan
from bridge.runtime.record import replace_digests

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
    calls = engine_calls(module)
    if not calls:
        raise BridgeError("this module has no engine", where="rebuild")
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
    if ONNX not in plan.section_names():
        raise BridgeError(
            "an engine of this module keeps no graph to build from",
            where="rebuild",
            hint="compile with keep_onnx=True, or compile the original again",
        )
    model = onnx.ModelProto.FromString(plan.section(ONNX).tobytes())
    outside = [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    return gs.import_onnx(with_weights(model, {tensor.name: plan.section(WEIGHT + tensor.name) for tensor in outside}))
