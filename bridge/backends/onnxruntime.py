"""ONNX Runtime on the CPU: always there, and runs the very graphs that TensorRT would be given.

Its graph optimisations are off, so the numbers are those of the graph; what its kernels compute wrongly is written in
others (`ort_substitutes`). A plan holds the model without its weights, and
each weight in a section of its own that the session uses in place.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import onnx_graphsurgeon as gs
import torch

from bridge.backends.base import DEFAULTS, BuildSettings, Progress, Refusal
from bridge.backends.bfloat16 import emulate_bfloat16
from bridge.backends.element_types import element_types
from bridge.backends.ort_kernels import BFLOAT16, missing
from bridge.backends.ort_substitutes import substitute
from bridge.backends.weights import bindings, detach_weights
from bridge.errors import BuildError, EngineError
from bridge.runtime.plan import Plan, PlanHeader, Profile
from bridge.runtime.session import Session, load
from bridge.runtime.session_onnxruntime import MODEL, WEIGHT, check_plan
from rewrites.tidying import all_nodes

log = logging.getLogger("bridge.backends.onnxruntime")


class OnnxRuntime:
    """See :class:`bridge.backends.base.Backend`."""

    name = "onnxruntime"

    def require(self) -> None:
        """It is installed with this package."""

    def version(self) -> str:
        import onnxruntime

        return str(onnxruntime.__version__)

    def refusals(self, graph: gs.Graph, then: BuildSettings | None = None) -> list[Refusal]:
        model, _ = detach_weights(graph)
        substitute(model)
        types = {name: kind for name, kind in element_types(model).items() if kind != BFLOAT16}
        return [
            Refusal(node.name, node.op_type, reason)
            for node in all_nodes(model.graph)
            if (reason := missing(node, model, types)) is not None
        ]

    def build(
        self,
        graph: gs.Graph,
        profiles: Sequence[Profile] = (),
        settings: BuildSettings = DEFAULTS,
        progress: Progress | None = None,
    ) -> Plan:
        model, weights = detach_weights(graph)
        substitute(model)
        notes = _emulation_notes(emulate_bfloat16(model))
        header = PlanHeader(
            backend=self.name,
            version=self.version(),
            inputs=bindings(graph.inputs),
            outputs=bindings(graph.outputs),
            profiles=tuple(profiles),
            settings=settings.changed(),
            notes=notes,
        )
        plan = Plan.pack(
            header, {MODEL: model.SerializeToString(), **{WEIGHT + name: array for name, array in weights.items()}}
        )
        _try(plan)
        if progress is not None:
            progress("build", 1, 1)
        return plan

    def load(self, plan: Plan, device: torch.device) -> Session:
        return load(plan, torch.device("cpu"))


def _try(plan: Plan) -> None:
    """Loads the plan once: ONNX Runtime finds what it cannot run only then."""
    try:
        check_plan(plan)
    except EngineError as error:
        raise BuildError("ONNX Runtime does not take this graph", why=error.why) from error


def _emulation_notes(count: int) -> tuple[str, ...]:
    if not count:
        return ()
    note = f"ONNX Runtime has no BF16 arithmetic: {count} nodes compute in FP32 and round their results to BF16"
    log.warning("%s", note)
    return (note,)


BACKEND = OnnxRuntime()
