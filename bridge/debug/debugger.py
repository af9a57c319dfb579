"""`bridge.debug`: a module's graph node by node in PyTorch, and beside it the ONNX graph or the engine."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bridge import torch_private as tp
from bridge.compare.arrays import as_numpy
from bridge.compare.figures import Figures, figures_of
from bridge.compare.inputs import one_set
from bridge.compare.layers import _JUMP, NOISE, TF32_NOISE, rules_in
from bridge.compare.runners import Contender
from bridge.compare.torch_side import arguments_of, with_inputs
from bridge.compare.tracing import _rule_names
from bridge.debug import beside as sides
from bridge.debug.beside import Beside, SegmentGraph
from bridge.debug.breakpoints import Breakpoint, parsed
from bridge.debug.interpreter import Block, Entered, Event, Interpreter, Left, Ran, Step
from bridge.debug.steps import DebugStep
from bridge.errors import SpecError
from bridge.frontend.load import Loaded, load
from bridge.frontend.observe import writes
from bridge.frontend.provenance import TAG, Origin
from bridge.runtime.calls import OPERATOR, engine_calls
from bridge.spec import CompileSpec

_SILENT = {
    "prim::Constant", "prim::GetAttr", "prim::ListConstruct", "prim::ListUnpack", "prim::TupleConstruct",
    "prim::TupleUnpack", "prim::TupleIndex", "prim::DictConstruct", "prim::Uninitialized", "prim::unchecked_cast",
    "prim::NumToTensor",
}  # fmt: skip


def debug(
    module: Any,
    inputs: Any,
    *,
    beside: Any = "onnx",
    breakpoints: str | Sequence[str] = (),
    stop_at_difference: bool = True,
    tolerance: float | None = None,
    spec: Any = None,
    **settings: Any,
) -> Debugger:
    """Runs a module's graph node by node in PyTorch, beside what it is compiled to.

    The graph is the one that `bridge.compile` works on: inlined, frozen, folded; TorchScript runs each of its nodes on
    its own, in branches and loops too. Where nodes would go into an engine, that engine's ONNX graph is run in ONNX
    Runtime on the very values that PyTorch has at this moment, and compared node by node, in every iteration.

    Args:
        module: as for `bridge.compile`; or a compiled module, whose engines then run as single steps.
        inputs: the arguments of one call: a tensor, a tuple of arguments, or a dict by name.
        beside: ``"onnx"``; ``"engine"``: also the engines, which are built, with branches and loops outside; a module
            that was compiled from this one with the same spec, or its path: also its engines, and of branches and loops
            that are in one as a whole, the results only; None: nothing.
        breakpoints: where to stop: operators (``"aten::softmax"``, ``"aten::*norm"``), module paths
            (``"encoder.layer.0"``) and source lines (``"model.py:12"``).
        stop_at_difference: whether to stop wherever an error begins.
        tolerance: relative error up to which a result counts as right. By default 1e-5 (1e-4 on a GPU), 5e-3 with
            float16, 4e-2 with bfloat16, and at least 2e-3 for TensorRT's engines, which compute float32 in TF32.
        spec, settings: as for `bridge.compile`.

    Raises:
        SpecError: an argument cannot be meant.
    """
    if tolerance is not None and not (_is_number(tolerance) and tolerance >= 0):
        raise SpecError(f"tolerance: expected a number from 0, got {tolerance!r} ({type(tolerance).__name__})")
    given = one_set(inputs)
    source = Contender(module, "module").source if isinstance(module, str | Path) else module
    has_engines = isinstance(source, torch.nn.Module) and bool(engine_calls(source))
    wanted = with_inputs(CompileSpec.of(spec, settings), given)
    loaded = load(source, wanted, wants_gpu=_wants_gpu(beside, wanted))
    made = sides.alone() if has_engines and beside == "onnx" else _beside(beside, loaded)
    stops = parsed(breakpoints, _origins(loaded))
    return Debugger(loaded, arguments_of(loaded, given), made, stops, stop_at_difference, tolerance)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wants_gpu(beside: Any, spec: CompileSpec) -> bool:
    if beside is None or beside == "onnx" or not torch.cuda.is_available():
        return False
    from bridge import backends

    return backends.select(spec.backend).name != "onnxruntime"


def _beside(beside: Any, loaded: Loaded) -> Beside:
    if beside is None:
        return sides.alone()
    if isinstance(beside, torch.nn.Module):
        return sides.with_compiled(loaded, beside)
    made = {"onnx": sides.with_onnx, "engine": sides.with_engines}.get(beside) if isinstance(beside, str) else None
    if made is not None:
        return made(loaded)
    if isinstance(beside, str | Path):
        compiled = Contender(beside, "beside").module
        if compiled is not None:
            return sides.with_compiled(loaded, compiled)
    raise SpecError(
        f"beside: {beside!r} cannot be run beside the module"
        if isinstance(beside, str | Path)
        else f"beside: a {type(beside).__name__} cannot be run beside the module",
        hint='"onnx", "engine", a compiled module or its path, or None',
    )


def _origins(loaded: Loaded) -> list[Origin]:
    table = loaded.program.provenance
    return [table[node.i(TAG)] for node in tp.walk(loaded.program.graph) if node.kind() not in _SILENT]


class Debugger:
    """A run that can be stopped and looked at; iterating over it gives every step.

    Attributes:
        history: the steps so far, with shapes in the place of values.
        values: what the values that are still needed are at the moment, by name.
    """

    def __init__(
        self,
        loaded: Loaded,
        arguments: Sequence[Any],
        beside: Beside,
        breakpoints: Sequence[Breakpoint],
        stop_at_difference: bool,
        tolerance: float | None,
    ) -> None:
        program = loaded.program
        changes = any(writes(node) for node in tp.walk(program.graph))
        state = copy.deepcopy(program.module) if changes else program.module
        self.loaded, self.beside, self.breakpoints = loaded, beside, list(breakpoints)
        self.stop_at_difference = stop_at_difference
        self.history: list[DebugStep] = []
        self._interpreter = Interpreter(program, state, copy.deepcopy(list(arguments)), self._order)
        self.values = self._interpreter.values
        self._judge = _Judge(loaded, beside, tolerance)
        self._steps = self._run()
        self._ended = False

    def __iter__(self) -> Iterator[DebugStep]:
        return self

    def __next__(self) -> DebugStep:
        """Runs one operator.

        Raises:
            BridgeError: the operator failed; the message has the user's line.
        """
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _without_tf32():
            step = next(self._steps)
        self.history.append(step.without_values())
        return step

    def run(self, show: Callable[[DebugStep], object] | None = None) -> DebugStep | None:
        """Runs on to the next stop.

        Args:
            show: is given every step, such as ``print``.

        Returns:
            The step at which it stopped, with its values; None at the end.
        """
        for step in self:
            if show is not None:
                show(step)
            if step.stopped_by:
                return step
        return None

    @property
    def results(self) -> Any:
        """What the method returns; runs to the end, past all stops."""
        while not self._ended:
            if next(self, None) is None:
                break
        return self._interpreter.results

    @property
    def first_difference(self) -> DebugStep | None:
        """The first step, of those that have run, at which an error begins."""
        return next((step for step in self.history if step.differs), None)

    def __str__(self) -> str:
        return "\n".join(map(str, self.history))

    def _order(self, block: Block) -> list[Step]:
        """The order in which a compiled module runs a block: engines as soon as they can."""
        cuts = self.beside.partition.cuts if self.beside.partition is not None else []
        outermost = isinstance(block, tp.Graph)
        for cut in cuts:
            if isinstance(cut.block, tp.Graph) == outermost and cut.block == block:
                return list(cut.steps)
        return list(block.nodes())

    def _run(self) -> Iterator[DebugStep]:
        number = 0
        for event in self._interpreter.run():
            step = self._judge.step(event, number, self._interpreter.values)
            if step is not None:
                number += 1
                yield replace(step, stopped_by=self._stop(step))
        self._ended = True

    def _stop(self, step: DebugStep) -> str:
        hit = next((one.text for one in self.breakpoints if one.hits(step.origin)), "")
        return hit or ("difference" if step.differs and self.stop_at_difference else "")


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """PyTorch is the reference: its convolutions compute float32 in float32."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


class _Judge:
    """Turns what has run into steps: with what runs beside it, and how far the two are apart."""

    def __init__(self, loaded: Loaded, beside: Beside, tolerance: float | None) -> None:
        self.loaded, self.beside = loaded, beside
        precision = str(loaded.spec.precision).removeprefix("torch.")
        on_gpu = loaded.program.device.type == "cuda"  # there PyTorch's kernels sum in another order
        self.noise = tolerance if tolerance is not None else max(NOISE[precision], _GPU_NOISE * on_gpu)
        exact = tolerance is not None or loaded.spec.disable_tf32 or not on_gpu
        self.engine_noise = self.noise if exact else max(self.noise, TF32_NOISE)
        self.known = _rule_names(loaded.spec.rules)
        self.refused = beside.partition.refused if beside.partition is not None else {}
        self.graph: SegmentGraph | None = None
        self.given: list[torch.Tensor] = []
        self.errors: dict[str, float] = {}

    def step(self, event: Event, number: int, values: dict[str, Any]) -> DebugStep | None:
        """The step that an event comes to; None for what is not worth one."""
        if isinstance(event, Entered):
            self.graph = self.beside.graphs[id(event.segment)]
            self.given = self.graph.enter(values)
            self.errors = {}
            return None
        if isinstance(event, Left):
            graph, self.graph = self.graph, None
            assert graph is not None
            engine = self.beside.engines.get(id(event.segment))
            return self._engine(graph, engine.run(self.given), number, values) if engine is not None else None
        return None if event.node.kind() in _SILENT else self._operator(event, number)

    def _operator(self, event: Ran, number: int) -> DebugStep:
        node = event.node
        identity = node.i(TAG)
        inputs = _named(node.inputs(), event.inputs)
        outputs = _named(node.outputs(), event.outputs)
        origin = self.loaded.program.provenance[identity]
        if self.graph is None or identity not in self.graph.identities:
            return DebugStep(number, origin, self._outside(node), event.place, inputs, outputs)
        found, worst = self._compared(self.graph, outputs)
        arriving = max((self.errors.get(value.debugName(), 0.0) for value in node.inputs()), default=0.0)
        self.errors.update(dict.fromkeys(outputs, worst.relative if worst is not None else arriving))
        nodes = tuple(self.graph.nodes.get(identity, ()))
        rules = dict.fromkeys(self.known.get(r, r) for name in nodes for r in rules_in(name, self.known))
        where = f"engine {self.graph.position}"
        cancelled = worst is not None and _is_cancelled(origin.operator, worst, inputs.values(), self.noise)
        differs = worst is not None and worst.relative > self.noise and not worst.relative <= _JUMP * arriving
        differs = differs and not cancelled
        told = (found, worst, arriving, differs, nodes, tuple(rules))
        return DebugStep(number, origin, where, event.place, inputs, outputs, *told)

    def _compared(self, graph: SegmentGraph, outputs: dict[str, Any]) -> tuple[dict[str, Any], Figures | None]:
        """What the ONNX graph has in the place of these values, and the largest distance."""
        found = {name: array for name in outputs if (array := graph.found(name)) is not None}
        figures = []
        for name, array in found.items():
            expected = as_numpy(outputs[name])
            is_result = any(value.debugName() == name for value in graph.segment.outputs)
            if expected.shape == array.shape and (expected.dtype.kind == "b") == (array.dtype.kind == "b"):
                figures.append(figures_of(expected, array))
            elif is_result:
                figures.append(_NOTHING_ALIKE)
        return found, max(figures, key=lambda one: one.relative, default=None)

    def _engine(self, graph: SegmentGraph, made: list[torch.Tensor], number: int, values: dict[str, Any]) -> DebugStep:
        """The engine as a whole, beside PyTorch's results."""
        names = [value.debugName() for value in graph.segment.outputs]
        expected = {name: values[name] for name in names}
        found = dict(zip(names, made, strict=True))
        figures = [
            figures_of(as_numpy(expected[name]), as_numpy(found[name]))
            if expected[name].shape == found[name].shape
            else _NOTHING_ALIKE
            for name in names
        ]
        worst = max(figures, key=lambda one: one.relative)
        arriving = max(self.errors.get(name, 0.0) for name in names)
        differs = worst.relative > self.engine_noise and not worst.relative <= _JUMP * arriving
        inputs = dict(zip(graph.sources, self.given, strict=True))
        origin, where = Origin(OPERATOR), f"engine {graph.position}"
        return DebugStep(number, origin, where, (), inputs, expected, found, worst, arriving, differs)

    def _outside(self, node: tp.Node) -> str:
        if self.beside.partition is None:
            return ""
        reason = self.refused.get(node.i(TAG))
        return f"PyTorch: {reason}" if reason else "PyTorch"


def _is_cancelled(operator: str, figures: Figures, inputs: Iterable[Any], noise: float) -> bool:
    """Whether a sum came out as small as what rounding leaves of its terms: its relative error then tells nothing."""
    if operator not in _SUMS or not math.isfinite(figures.max_absolute):
        return False
    sizes = [float(v.abs().max()) for v in inputs if isinstance(v, torch.Tensor) and v.numel() and not v.is_complex()]
    return figures.max_absolute <= noise * max(sizes, default=0.0)


_GPU_NOISE = 1e-4
_SUMS = {f"aten::{name}" for name in ("sum", "mean", "add", "sub", "rsub", "cumsum", "diff", "nansum")}
_NOTHING_ALIKE = Figures(float("inf"), float("inf"), float("inf"), float("nan"), float("-inf"))


def _named(values: Any, held: Sequence[Any]) -> dict[str, Any]:
    """Values by name, without constants and modules."""
    return {
        value.debugName(): item
        for value, item in zip(values, held, strict=True)
        if not tp.is_constant(value) and not isinstance(item, torch.nn.Module)
    }
