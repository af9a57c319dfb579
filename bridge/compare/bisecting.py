"""From a comparison to its cause: what first changes the numbers, and the smallest model that shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs

from bridge.backends.weights import detach_weights, with_weights
from bridge.compare.arrays import Array
from bridge.compare.blame import Blamer, Culprit, Share
from bridge.compare.engines import EngineSide, Part, run_engine
from bridge.compare.inside import CompiledSide
from bridge.compare.layers import Comparable, LayerRow, Stage
from bridge.compare.reproducing import write
from bridge.compare.sides import OnnxSide
from bridge.compare.steps import Key, leaving
from bridge.compare.windows import Window, Windows
from bridge.frontend.provenance import Provenance

_HALVES = ("float16", "bfloat16")


@dataclass
class Bisection:
    """What was found.

    Attributes:
        culprit: what first changes the numbers; None when nothing by itself does.
        shares: what each part of the module loses in half precision alone; only where the precision is at fault.
        files: the smallest model, its values and a script that shows the error.
    """

    culprit: Culprit | None = None
    shares: list[Share] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        told = [str(self.culprit) if self.culprit else "No single rule, cast or engine changes the numbers by itself."]
        if self.files:
            told.append(f"{self.files[-1]} shows it.")
        return " ".join(told)


def bisect(what: Comparable, rows: Sequence[LayerRow], passed: bool, folder: Path, bound: float) -> Bisection:
    """Looks for the cause of the first divergence, or of outputs that fail where no layer diverges.

    Args:
        passed: whether the outputs agree.
        folder: gets the smallest model, its values and a script.
        bound: the relative error of an output above which it is wrong.
    """
    row = next((row for row in rows if row.guilty), None)
    if row is None:
        return Bisection() if passed or what.traced is None else _of_outputs(what, folder, bound)
    stage = next(stage for stage in what.stages if stage.name == row.guilty_stage)
    if isinstance(stage.side, EngineSide):
        return _of_engines(what, stage.side, folder, stage.noise)
    return _of_row(what, row, stage, folder)


def _of_outputs(what: Comparable, folder: Path, bound: float) -> Bisection:
    """No layer diverges by itself: the engines as they are, without marks; else the sum of what the casts lose."""
    for stage in what.stages:
        if isinstance(stage.side, EngineSide) and (found := _of_engines(what, stage.side, folder, bound)).culprit:
            return found
    assert what.traced is not None
    return _blamed(what, Blamer(what.traced, [], bound))


def _of_row(what: Comparable, row: LayerRow, stage: Stage, folder: Path) -> Bisection:
    """The cause of one operator's error, and that operator by itself as it is in the wrong graph."""
    found = Bisection()
    if what.traced is not None and stage.name != "compiled":
        found = _blamed(what, Blamer(what.traced, [row.key], stage.noise))
    side = stage.side.holding(row.key) if isinstance(stage.side, CompiledSide) else stage.side
    cut = _of_key(side, row.key) if isinstance(side, OnnxSide) else None
    if cut is not None:
        model, feeds, name = cut
        right = leaving(what.reference.deep, what.reference.results)[row.key][-1]
        values = {**feeds, name: what.reference.values([right])[right]}
        found.files = write(
            folder, model, values, str(found.culprit or row.origin), stage.noise, "onnxruntime", tf32=False
        )
    return found


def _blamed(what: Comparable, blamer: Blamer) -> Bisection:
    assert what.traced is not None
    is_half = str(what.traced.loaded.spec.precision).removeprefix("torch.") in _HALVES
    culprit = blamer.first_application()
    if culprit is not None or not is_half:
        return Bisection(culprit)
    return Bisection(blamer.first_cast(), blamer.shares())


def _of_key(side: OnnxSide, key: Key) -> tuple[onnx.ModelProto, dict[str, Array], str] | None:
    """The nodes of one key by themselves, what goes into them, and the name of their result."""
    inside = [step for step in side.steps if step.key == key]
    names = leaving(side.steps, side.results).get(key, [])
    if not inside or not names:
        return None
    return side.cut(inside, names[-1])


def _of_engines(what: Comparable, side: EngineSide, folder: Path, bound: float) -> Bisection:
    assert what.traced is not None
    for part in side.parts:
        right = OnnxSide("the engine's graph", part.model, part.weights)
        right.feeds = part.feeds_by_name()
        windows = Windows(part.graph, right, partial(_run, part), bound)
        window = windows.smallest()
        if window is not None:
            culprit = _culprit(window, windows, what.traced.loaded.program.provenance)
            files = _written(folder, window, windows, part, culprit)
            return Bisection(culprit, [], files)
    return Bisection()


def _run(part: Part, graph: gs.Graph, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    profile = {name: (array.shape,) * 3 for name, array in feeds.items()}
    return run_engine(part.backend, graph, profile, part.settings, feeds)


def _culprit(window: Window, windows: Windows, table: Provenance) -> Culprit:
    last = windows.steps[window.end - 1]
    origin = table.of_name(last.name.rpartition("+")[2])
    count = window.end - window.start
    where = f"({count} node{'s' * (count != 1)} that end at {last.name}{f', {origin}' if origin else ''})"
    return Culprit("engine", window.output, where, 0.0, window.relative, windows.tries)


def _written(folder: Path, window: Window, windows: Windows, part: Part, culprit: Culprit) -> list[Path]:
    model = with_weights(*detach_weights(window.graph))
    made = {tensor.name for node in window.graph.nodes for tensor in node.outputs}
    between = windows.right.values([name for name in made if name not in window.expected])
    values = {**between, **window.expected, **window.feeds}
    tf32 = not part.settings.disable_tf32
    return write(folder, model, values, str(culprit), windows.bound, part.backend.name, tf32)
