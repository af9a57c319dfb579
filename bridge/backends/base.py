"""The protocol that every backend keeps, and the choice among them."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from bridge.errors import BridgeError, SpecError
from bridge.runtime.plan import Plan, Profile, Shape
from bridge.runtime.session import Session

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

log = logging.getLogger("bridge.backends")

NAMES = ("tensorrt", "tensorrt_rtx", "onnxruntime")

Progress = Callable[[str, int, int], None]
"""Called with a phase's name, the steps done and the steps in all."""


@dataclass(frozen=True)
class BuildSettings:
    """How an engine is built. Backends pass over what has no meaning for them.

    Attributes:
        workspace_size: bytes of device memory that the kernels of a layer may use; None: all there is.
        optimization_level: TensorRT's builder optimisation level, 0 (fast build) to 5 (thorough); None: its own, 3.
        timing_cache: file that kernel timings are read from and added to, so that a second build is quick.
        disable_tf32: whether FP32 matrix products keep all 23 bits of mantissa, at a cost in speed.
        profiling_verbosity: what the engine tells about its layers when it is inspected or profiled.
        device: index of the GPU that it is built on and for.
        engine_capability: ``"standard"``, ``"safety"`` or ``"dla_standalone"``.
        hardware_compatible: whether the engine also runs on other GPUs from Ampere on, at a cost in speed.
        version_compatible: whether later versions of TensorRT may run the engine.
        strip_plan: leave out weights that refitting can bring back.
        refittable: whether weights may be replaced without a new build.
        sparse_weights: use kernels for 2:4 structured sparsity where the weights have it.
        max_aux_streams: how many streams beside the main one TensorRT may use; None: its own choice.
        shape_values: smallest, most frequent and largest values of inputs whose values decide shapes (a reshape's).
    """

    workspace_size: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | str | None = None
    disable_tf32: bool = False
    profiling_verbosity: Literal["detailed", "layer_names_only", "none"] = "detailed"
    device: int = 0
    engine_capability: Literal["standard", "safety", "dla_standalone"] = "standard"
    hardware_compatible: bool = False
    version_compatible: bool = False
    strip_plan: bool = False
    refittable: bool = False
    sparse_weights: bool = False
    max_aux_streams: int | None = None
    shape_values: Mapping[str, tuple[Shape, Shape, Shape]] = field(default_factory=dict)

    def changed(self) -> dict[str, Any]:
        """The settings that are not at their default, JSON-able; paths as text."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values = {name: value for name, value in values.items() if value != getattr(DEFAULTS, name)}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


DEFAULTS = BuildSettings()


@dataclass(frozen=True)
class Refusal:
    """A node that a backend does not take.

    Attributes:
        node_name: the ONNX node's name, which holds its provenance; of a node inside a body where the backend tells,
            else of the node that owns the body.
        op_type: its operator.
        reason: the backend's own words.
    """

    node_name: str
    op_type: str
    reason: str


class Backend(Protocol):
    """A compiler of ONNX graphs, with the runtime of what it makes."""

    name: str

    def require(self) -> None:
        """Raises BridgeError with the one command that installs the backend, when it is not there."""
        ...

    def version(self) -> str:
        """The installed version, e.g. ``"10.6.0"``."""
        ...

    def refusals(self, graph: gs.Graph, then: BuildSettings | None = None) -> list[Refusal]:
        """The nodes that the backend's parser does not take; empty when it takes the whole graph. Builds nothing.

        Args:
            then: where the graph is to be built next, with these settings: what is parsed here may be kept for that.
        """
        ...

    def build(
        self,
        graph: gs.Graph,
        profiles: Sequence[Profile] = (),
        settings: BuildSettings = DEFAULTS,
        progress: Progress | None = None,
    ) -> Plan:
        """Builds an engine.

        Args:
            graph: whole and typed: graph inputs and outputs have dtypes. It is left as it was.
            profiles: the shapes to build for; an input that is static may be left out.
            settings: how to build.
            progress: hears about the phases of the build.

        Raises:
            BuildError: the backend gave no engine; the message has its own words and the node that they are about.
        """
        ...

    def load(self, plan: Plan, device: torch.device) -> Session:
        """The plan's engine on this device; the same session as long as one of an equal plan is alive."""
        ...


def get(name: str) -> Backend:
    """The backend of this name, not yet asked whether it is installed.

    Raises:
        SpecError: there is none of this name.
    """
    if name not in NAMES:
        raise SpecError(
            f"there is no backend {name!r}", where="backend", hint=f'one of "auto", {", ".join(map(repr, NAMES))}'
        )
    backend: Backend = importlib.import_module(f"bridge.backends.{name}").BACKEND
    return backend


def select(name: str = "auto") -> Backend:
    """The backend of this name, ready to use.

    ``"auto"`` takes TensorRT where it and a GPU are there, else ONNX Runtime.

    Raises:
        SpecError: there is none of this name.
        BridgeError: it is not installed; the message has the command that installs it.
    """
    if name != "auto":
        backend = get(name)
        backend.require()
        return backend
    return get(_automatic())


@cache
def _automatic() -> str:
    """The backend that "auto" stands for in this process; says once which and why."""
    if not torch.cuda.is_available():
        choice, why = "onnxruntime", "there is no GPU"
    else:
        try:
            get("tensorrt").require()
            choice, why = "tensorrt", f"it is installed and {torch.cuda.get_device_name()} is there"
        except BridgeError as error:
            choice, why = "onnxruntime", f"there is a GPU, but: {error}"
    log.info("backend %s: %s", choice, why)
    return choice
