"""TensorRT and TensorRT for RTX as one backend: their bindings differ in little more than their name.

Networks are strongly typed: the ONNX graph says the precision of every layer, so nothing here chooses one.
"""

from __future__ import annotations

import atexit
import re
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import torch

from bridge.backends.base import DEFAULTS, BuildSettings, Progress, Refusal
from bridge.backends.tensorrt_config import configure, save_timing_cache
from bridge.backends.weights import Array, bindings, detach_weights, save_model
from bridge.errors import BuildError
from bridge.runtime.bindings import TITLES, logger
from bridge.runtime.bindings import bindings as python_bindings
from bridge.runtime.dtypes import NAMES_OF_TENSORRT
from bridge.runtime.plan import Binding, Plan, PlanHeader, Profile
from bridge.runtime.session import Session, load
from bridge.runtime.session_tensorrt import ENGINE

# TensorRT loads its kernels with a process's first builder, which takes seconds, and lets them go with its last one:
# one of each kind stays.
_staying: dict[str, Any] = {}
atexit.register(_staying.clear)


@dataclass
class _Parsed:
    """A graph as a network of TensorRT's, with what the parser refused.

    Attributes:
        model: what it was parsed from, but for the weights.
        weights: what the network's layers may point at.
        device: index of the GPU that it was made on.
    """

    network: Any
    parser: Any
    builder: Any
    refusals: list[Refusal]
    model: bytes
    weights: dict[str, Array]
    device: int

    def is_of(self, model: bytes, weights: dict[str, Array], device: int) -> bool:
        """Whether these bytes, with the same arrays in memory, are what it was parsed from."""
        return (
            (model, device) == (self.model, self.device)
            and weights.keys() == self.weights.keys()
            and all(array.ctypes.data == self.weights[name].ctypes.data for name, array in weights.items())
        )


class TensorRTBackend:
    """See :class:`bridge.backends.base.Backend`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._kept: tuple[weakref.ref[gs.Graph], _Parsed] | None = None

    def require(self) -> None:
        python_bindings(self.name)

    def version(self) -> str:
        return str(python_bindings(self.name).__version__)

    def refusals(self, graph: gs.Graph, then: BuildSettings | None = None) -> list[Refusal]:
        with self._parsed(graph, then or DEFAULTS) as parsed:
            if then is not None and not parsed.refusals:
                self._kept = weakref.ref(graph, self._forget), parsed
            return parsed.refusals

    def build(
        self,
        graph: gs.Graph,
        profiles: Sequence[Profile] = (),
        settings: BuildSettings = DEFAULTS,
        progress: Progress | None = None,
    ) -> Plan:
        trt = python_bindings(self.name)
        with self._parsed(graph, settings) as parsed, logger(self.name).errors() as errors:
            if parsed.refusals:
                raise _refused(self.name, parsed.refusals)
            config, notes = configure(trt, parsed.builder, parsed.network, profiles, settings, progress)
            engine = parsed.builder.build_serialized_network(parsed.network, config)
            if engine is None:
                raise _failed(self.name, errors)
            save_timing_cache(config, settings)
            return Plan.pack(self._header(graph, parsed.network, profiles, settings, notes), {ENGINE: engine})

    def load(self, plan: Plan, device: torch.device) -> Session:
        return load(plan, device)

    @contextmanager
    def _parsed(self, graph: gs.Graph, settings: BuildSettings) -> Iterator[_Parsed]:
        """The graph as a network of TensorRT's, parsed now or when its refusals were asked for."""
        on_device = torch.cuda.device(settings.device) if torch.cuda.is_available() else nullcontext()
        with on_device:
            model, weights = detach_weights(graph)
            yield self._taken(graph, model, weights, settings) or self._parse(model, weights, settings)

    def _parse(self, model: onnx.ModelProto, weights: dict[str, Array], settings: BuildSettings) -> _Parsed:
        trt = python_bindings(self.name)
        written = model.SerializeToString()
        with tempfile.TemporaryDirectory(prefix="bridge-") as folder, logger(self.name).errors() as errors:
            builder = _builder(trt, self.name, errors)
            network = builder.create_network(_network_flags(trt))
            parser = trt.OnnxParser(network, logger(self.name))
            refusals = _parse(parser, model, weights, Path(folder), errors)
        return _Parsed(network, parser, builder, refusals, written, weights, settings.device)

    def _taken(
        self, graph: gs.Graph, model: onnx.ModelProto, weights: dict[str, Array], settings: BuildSettings
    ) -> _Parsed | None:
        """What was parsed for this graph's refusals, where it is as it was then; a network is built once."""
        kept = self._kept
        if kept is None or kept[0]() is not graph:
            return None
        self._kept = None
        return kept[1] if kept[1].is_of(model.SerializeToString(), weights, settings.device) else None

    def _forget(self, gone: weakref.ref[gs.Graph]) -> None:
        if self._kept is not None and self._kept[0] is gone:
            self._kept = None

    def _header(
        self, graph: gs.Graph, network: Any, profiles: Sequence[Profile], settings: BuildSettings, notes: list[str]
    ) -> PlanHeader:
        shapes = {binding.name: binding.shape for binding in (*bindings(graph.inputs), *bindings(graph.outputs))}

        def describe(tensor: Any) -> Binding:
            return Binding(tensor.name, NAMES_OF_TENSORRT[tensor.dtype.name], shapes.get(tensor.name))

        return PlanHeader(
            backend=self.name,
            version=self.version(),
            inputs=tuple(describe(network.get_input(index)) for index in range(network.num_inputs)),
            outputs=tuple(describe(network.get_output(index)) for index in range(network.num_outputs)),
            profiles=tuple(profiles),
            device=_device(settings) if self.name == "tensorrt" else {},
            settings=settings.changed(),
            notes=tuple(notes),
        )


def _builder(trt: ModuleType, name: str, errors: list[str]) -> Any:
    try:
        builder = trt.Builder(logger(name))
    except (TypeError, RuntimeError) as error:
        why = "\n".join(errors) or str(error)
        raise BuildError(
            f"{TITLES[name]} cannot build on this machine", why=why, hint="it needs an NVIDIA GPU and its driver"
        ) from error
    _staying.setdefault(name, builder)
    return builder


def _network_flags(trt: ModuleType) -> int:
    flag = getattr(
        trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None
    )  # where it is missing, there is nothing else
    return 0 if flag is None else 1 << int(flag)


def _device(settings: BuildSettings) -> dict[str, str]:
    properties = torch.cuda.get_device_properties(settings.device)
    return {"name": properties.name, "capability": f"{properties.major}.{properties.minor}"}


def _parse(
    parser: Any, model: onnx.ModelProto, weights: dict[str, Array], folder: Path, errors: list[str]
) -> list[Refusal]:
    """What the parser refused; BuildError when it failed and named no node."""
    if hasattr(parser, "load_initializer"):
        parsed = parser.load_model_proto(model.SerializeToString()) and _parse_loaded(parser, weights)
    else:
        parsed = parser.parse_from_file(str(save_model(model, weights, folder)))
    refusals = _errors(parser, model)
    if not parsed and not any(item.op_type for item in refusals):
        why = "\n".join([*(item.reason for item in refusals), *errors])
        raise BuildError("TensorRT's parser could not read this graph", why=why)
    return refusals


def _parse_loaded(parser: Any, weights: dict[str, Array]) -> bool:
    """Lets the parser take the weights from where they are, as TensorRT can from 10.13 on."""
    taken = [parser.load_initializer(name, array.ctypes.data, array.nbytes) for name, array in weights.items()]
    return all(taken) and bool(parser.parse_model_proto())


def _errors(parser: Any, model: onnx.ModelProto) -> list[Refusal]:
    """What the parser said: one refusal a node."""
    found: dict[tuple[str, str], Refusal] = {}
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        at = error.node()
        node = model.graph.node[at] if 0 <= at < len(model.graph.node) else None
        name = error.node_name() or (node.name if node is not None else "")
        operator = error.node_operator() or (node.op_type if node is not None else "")
        of_importer = [] if operator else _nodes_of_importer(error.func(), model)
        for key in of_importer or [(name, operator)]:
            found.setdefault(key, Refusal(*key, error.desc()))
    return list(found.values())


def _nodes_of_importer(function: str, model: onnx.ModelProto) -> list[tuple[str, str]]:
    """The nodes that an error which names none can be about: those of the operator whose importer raised it."""
    return [(node.name, node.op_type) for node in model.graph.node if function == f"import{node.op_type}"]


def _refused(name: str, refusals: list[Refusal]) -> BuildError:
    lines = [f"{item.op_type} {item.node_name}: {item.reason}" for item in refusals[:10]]
    more = [f"and {len(refusals) - 10} more"] if len(refusals) > 10 else []
    return BuildError(
        f"{TITLES[name]}'s parser does not take {len(refusals)} nodes of this graph",
        where=refusals[0].node_name or None,
        why="\n".join(lines + more),
    )


def _failed(name: str, errors: list[str]) -> BuildError:
    why = "\n".join(dict.fromkeys(errors))
    node = re.search(r"[\w./:]*#\d+[\w./]*", why)
    return BuildError(
        f"{TITLES[name]} built no engine", where=node[0] if node else None, why=why or "it gave no reason"
    )
