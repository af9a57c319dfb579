"""The engines that a program is compiled to, as something to look into: results marked as outputs, and built again."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

import onnx
import onnx_graphsurgeon as gs

from bridge.backends.base import Backend, BuildSettings
from bridge.backends.element_types import element_types
from bridge.compare.arrays import Array, as_numpy, as_tensor
from bridge.compare.sides import onnx_step
from bridge.compare.steps import Key, Step, prefixed
from bridge.compare.torch_side import TorchSide
from bridge.compile import segments_to_build
from bridge.errors import BridgeError
from bridge.frontend.load import Loaded
from bridge.interface import detached
from bridge.runtime.dtypes import dtype_of
from bridge.runtime.module import embed_engine_in_new_module
from bridge.runtime.plan import Profile
from bridge.runtime.session import session_device
from bridge.translate import Translation

_INTEGERS = {getattr(onnx.TensorProto, name) for name in ("BOOL", "INT8", "UINT8", "INT16", "INT32", "INT64")}
_LOG = logging.getLogger("bridge.compare")


class EngineSide:
    """A program's engines, each fed with the reference's own values.

    Engines inside the bodies of loops and branches are left out. An engine is built once for each set of results that
    it is asked for: marking them may keep the backend from fusing what it otherwise fuses.

    Attributes:
        notes: engines that could not be built or run, and why.
    """

    def __init__(self, loaded: Loaded, backend: Backend, reference: TorchSide) -> None:
        self.label = f"{backend.name} {backend.version()}"
        self.notes: list[str] = []
        self.steps: list[Step] = []
        self.results: list[str] = []
        self.parts: list[Part] = []
        self._given: dict[Key, Collection[str]] = {}
        for translation, profile, settings in segments_to_build(loaded):
            part = Part(f"{len(self.parts)}:", translation, profile, settings, backend)
            values = reference.kept(part.sources)
            if all(name in values for name in part.sources):
                part.feeds = [values[name] for name in part.sources]
                self._add(part)

    def _add(self, part: Part) -> None:
        self.parts.append(part)
        self.steps += part.steps
        self.results += part.results
        self._given.update((step.key, set(part.sources)) for step in part.steps if step.key is not None)

    @property
    def deep(self) -> list[Step]:
        """Bodies are not looked into."""
        return self.steps

    def exact(self, key: Key) -> Collection[str]:
        """What the engine that computes ``key`` is fed with."""
        return self._given.get(key, ())

    def values(self, names: Sequence[str]) -> dict[str, Array]:
        """These values, of one run of each engine."""
        found: dict[str, Array] = {}
        for part in self.parts:
            wanted = [name for name in dict.fromkeys(names) if name.startswith(part.prefix)]
            if wanted:
                found.update(self._marked(part, wanted))
        return found

    def _marked(self, part: Part, wanted: list[str]) -> dict[str, Array]:
        """Without integers where the backend does not give them as results: it may compute them on the host."""
        floating = part.floating(wanted)
        try:
            return part.values(wanted)
        except BridgeError as error:
            told = f"engine {part.prefix[:-1]} with {len(wanted)} results marked: {error}"
            self.notes.append(told)
            _LOG.warning("%s", told)
        if not 0 < len(floating) < len(wanted):
            return {}
        return self._marked(part, floating)


class Part:
    """One segment; its tensors go by a prefix, since two segments may use one name.

    Attributes:
        sources: the reference's values that are its inputs.
        feeds: their arrays.
    """

    def __init__(
        self, prefix: str, translation: Translation, profile: Profile | None, settings: BuildSettings, backend: Backend
    ) -> None:
        assert translation.graph is not None and translation.function is not None
        self.prefix, self.graph, self.backend = prefix, translation.graph, backend
        self.profile, self.settings = profile, settings
        self.names = translation.input_names
        self.sources = [value.debugName() for value in translation.function.inputs]
        self.feeds: list[Array] = []
        self.model, self.weights = detached(translation)
        self.steps = [prefixed(onnx_step(node), prefix) for node in self.model.graph.node]
        self.results = [prefix + tensor.name for tensor in self.graph.outputs]

    def floating(self, names: Sequence[str]) -> list[str]:
        """Those of the names whose values are not integers."""
        types = element_types(self.model)
        return [name for name in names if types.get(name.removeprefix(self.prefix)) not in _INTEGERS]

    def values(self, names: Sequence[str]) -> dict[str, Array]:
        """By prefixed names."""
        wanted = [name.removeprefix(self.prefix) for name in names]
        feeds = self.feeds_by_name()
        profile = self.profile or {name: (array.shape,) * 3 for name, array in feeds.items()}
        with _Marked(self.graph, self.model, wanted):
            made = run_engine(self.backend, self.graph, profile, self.settings, feeds)
        return {self.prefix + name: made[name] for name in wanted if name in made}

    def feeds_by_name(self) -> dict[str, Array]:
        """The inputs by their names in the graph."""
        return dict(zip(self.names, self.feeds, strict=True))


def run_engine(
    backend: Backend, graph: gs.Graph, profile: Profile, settings: BuildSettings, feeds: Mapping[str, Array]
) -> dict[str, Array]:
    """Builds an engine and runs it once.

    Raises:
        BridgeError: it cannot be built or run here.
    """
    plan = backend.build(graph, [profile], settings)
    device = session_device(backend.name, [])
    kinds = {binding.name: dtype_of(binding.dtype) for binding in plan.header.inputs}
    outputs = embed_engine_in_new_module(plan)(
        *(as_tensor(feeds[name]).to(device, kind) for name, kind in kinds.items())
    )
    results = outputs if isinstance(outputs, tuple) else (outputs,)
    return {b.name: as_numpy(result) for b, result in zip(plan.header.outputs, results, strict=True)}


class _Marked:
    """While it lasts, these tensors are outputs of the graph, with their types."""

    def __init__(self, graph: gs.Graph, model: onnx.ModelProto, names: Sequence[str]) -> None:
        self.graph, self.before = graph, list(graph.outputs)
        made = {tensor.name: tensor for node in graph.nodes for tensor in node.outputs}
        there = {tensor.name for tensor in self.before}
        self.extra = [made[name] for name in names if name in made and name not in there]
        self.types = element_types(model)

    def __enter__(self) -> None:
        for tensor in self.extra:
            if tensor.dtype is None and tensor.name in self.types:
                tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(self.types[tensor.name])
        self.graph.outputs[:] = [*self.before, *self.extra]

    def __exit__(self, *_: object) -> None:
        self.graph.outputs[:] = self.before
