"""`bridge.compare`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from bridge.compare import bisecting
from bridge.compare.corners import corner_sets
from bridge.compare.inputs import input_sets
from bridge.compare.layers import NOISE, Comparable, compare_layers
from bridge.compare.outputs import RTOL, OutputRow, Tolerance, compare_outputs, feed_of, quiet_polygraphy
from bridge.compare.results import ComparisonReport
from bridge.compare.runners import Contender, needs_own_process
from bridge.compare.tracing import STAGES, comparable_of
from bridge.errors import BridgeError, ExportError, SpecError
from bridge.frontend.load import default_dtype
from bridge.report.writing import refuse_unwritable, refuse_unwritable_folder, replacing
from bridge.spec import CompileSpec

_EVALUATORS = ("onnxruntime", "reference")


def compare(
    reference: Any,
    compiled: Any,
    inputs: Any = None,
    *,
    layers: bool | Sequence[str] = False,
    rtol: Tolerance = None,
    atol: Tolerance = None,
    spec: Any = None,
    save_inputs: str | Path | None = None,
    bisect: str | Path | None = None,
    evaluator: Literal["onnxruntime", "reference"] = "onnxruntime",
    python: str | Path | None = None,
    limit: int | None = None,
    **settings: Any,
) -> ComparisonReport:
    """Runs two of the same on the same inputs, and tells whether and where they differ.

    Args:
        reference, compiled: each a torch.nn.Module (compiled or not), a ScriptModule, an ExportedProgram, an
            onnx.ModelProto, a TensorRT engine's bytes, or the path of one of them.
        inputs: the arguments of one call: a tensor, a tuple of arguments, or a dict by name. A list of tuples or of
            dicts holds several sets, and so does a data loader of Polygraphy's or PyTorch's, a generator, or a file, by
            its path (Polygraphy's .json, .pt, .npz). None: the spec's examples, in every combination of the smallest,
            usual and largest size of its dynamic dimensions.
        layers: also compare the result of every operator of the reference with those of the exported and of the
            rewritten ONNX graph in ONNX Runtime, and with what is inside ``compiled`` where that can be looked into, on
            the set of inputs that came out worst, and name the first that diverges. The graphs are made from the
            reference as `bridge.compile` makes them with ``spec``; when ``compiled`` is a model of `bridge.to_onnx`, it
            is taken instead. Or the names of stages, see ``docs/comparing.md``.
        rtol: relative tolerance: for all outputs, or by output name (``""`` for the others). By default by dtype:
            1e-3 for float32, 2e-2 for float16, 5e-2 for bfloat16, none for integers; that of the precision which
            ``spec`` or a compiled module's own record names, where that is coarser than the outputs' dtype.
        atol: absolute tolerance, likewise; by default ``rtol`` times the root mean square of the reference's output.
            An element is right when it is within either tolerance.
        spec, settings: as for `bridge.compile`, for ``layers``.
        bisect: a folder: also look for the rule, the cast or the part of an engine that first changes the numbers, by
            halving, and write there the smallest ONNX model that shows it, with its values and a script.
        evaluator: what runs ONNX models: ONNX Runtime, or ONNX's own reference evaluator, which computes half
            precision in half precision.
        python: the interpreter of another environment, in which ``compiled`` is run: one with another TensorRT. What
            cannot share this process is run in a process of its own without being asked.
        limit: how many sets of inputs to take of a data loader.
        save_inputs: writes the inputs to this file, in Polygraphy's JSON.

    Raises:
        SpecError: the inputs or tolerances cannot be meant.
        BridgeError: one of the two cannot be opened or run here.
    """
    wanted = CompileSpec.of(spec, settings)
    named = _checked(layers, rtol, atol, evaluator, python, bisect, save_inputs)
    left = Contender(reference, "reference", evaluator)
    dtype = default_dtype(left.module) if left.module is not None else torch.float32
    sets = corner_sets(wanted, dtype=dtype) if inputs is None else input_sets(inputs, limit)
    if python is None and needs_own_process(left, compiled):
        python = sys.executable
    right = Contender(compiled, "compiled", evaluator, None if python is None else str(python))
    if save_inputs:
        _save([feed_of(left, right, one) for one in sets], Path(save_inputs))
    coarsest = _coarsest(str(wanted.precision).removeprefix("torch."), left.precision, right.precision)
    rows = [row for i, one in enumerate(sets) for row in compare_outputs(left, right, one, i, rtol, atol, coarsest)]
    if not rows:
        told = "there is nothing to compare: neither of the two gives a tensor or a number"
        raise BridgeError(told, hint="let the module return what is to be compared")
    report = ComparisonReport(left.label, right.label, rows, settings=_told(rtol, atol, layers, spec, settings))
    if layers or bisect is not None:
        worst = sets[max(rows, key=_badness).inputs]
        try:
            graphs = comparable_of(left, right, worst, spec, settings, named, passed=report.passed)
        except BridgeError as error:
            if report.passed:
                raise
            report.notes.append(str(error))  # that the outputs differ is known, and to be told
            return report
        _look_into(graphs, report, None if bisect is None else Path(bisect))
    return report


def _look_into(graphs: Comparable, report: ComparisonReport, folder: Path | None) -> None:
    """Adds to a report what the layers tell, and in the folder what is at fault."""
    report.layers, report.histograms = compare_layers(graphs)
    report.noise, report.notes = graphs.noise, graphs.notes
    if folder is not None:
        bound = _bound(report.outputs)
        try:
            report.bisection = bisecting.bisect(graphs, report.layers, report.passed, folder, bound)
        except ExportError as error:  # what is known by then is told all the same
            report.notes.append(f"nothing can be halved: {error.what}" + (f" ({error.where})" if error.where else ""))


def _checked(
    layers: Any, rtol: Any, atol: Any, evaluator: Any, python: Any, bisect: Any, save_inputs: Any
) -> tuple[str, ...]:
    """The stages that are named; nothing has been done yet when an argument cannot be meant.

    Raises:
        SpecError: an argument cannot be meant.
        BridgeError: something cannot be written where it is to go.
    """
    for field, given in (("rtol", rtol), ("atol", atol)):
        _check_tolerance(field, given)
    if evaluator not in _EVALUATORS:
        raise SpecError(f"evaluator: {evaluator!r} is not known", hint=f"one of {', '.join(_EVALUATORS)}")
    for field, path in (("python", python), ("bisect", bisect), ("save_inputs", save_inputs)):
        if path is not None and not isinstance(path, str | Path):
            raise SpecError(f"{field}: expected a path, got {path!r} ({type(path).__name__})")
    if python is not None and not (Path(python).is_file() and os.access(python, os.X_OK)):
        raise SpecError(f"python: there is no interpreter {python}")
    if bisect is not None:
        refuse_unwritable_folder(bisect)
    if save_inputs is not None:
        refuse_unwritable(save_inputs)
    if layers is None or isinstance(layers, bool):
        return ()
    named = (layers,) if isinstance(layers, str) else tuple(layers) if isinstance(layers, Sequence) else (layers,)
    for name in named:
        if name not in STAGES:
            raise SpecError(f"layers: there is no stage {name!r}", hint=f"True, or some of {', '.join(STAGES)}")
    return named


def _check_tolerance(field: str, given: Any) -> None:
    for number in given.values() if isinstance(given, Mapping) else [given]:
        known = isinstance(number, int | float) and not isinstance(number, bool) and number >= 0
        if number is not None and not known:
            told = f"expected a number from 0, or numbers by output name, got {number!r} ({type(number).__name__})"
            raise SpecError(f"{field}: {told}")


def _told(rtol: Tolerance, atol: Tolerance, layers: object, spec: Any, settings: dict[str, Any]) -> dict[str, str]:
    """What the comparison was told, as text; what was left at its default is left out."""
    given = {"rtol": rtol, "atol": atol, "layers": layers or None, "spec": spec, **settings}
    return {name: str(value) for name, value in given.items() if value is not None}


def _coarsest(*precisions: str) -> str:
    return max(precisions, key=lambda name: RTOL.get(name, 0.0) if name != "float32" else 0.0)


def _badness(row: OutputRow) -> float:
    return row.figures.relative if row.figures is not None else float("inf")


def _bound(rows: list[OutputRow]) -> float:
    """The relative error above which outputs count as wrong when they are bisected: the loosest relative tolerance."""
    return max((row.rtol for row in rows), default=0.0) or max(NOISE.values())


def _save(feeds: list[dict[str, Any]], path: Path) -> None:
    from polygraphy.json import save_json

    with quiet_polygraphy(), replacing(path) as partial:
        save_json([{name: tensor.numpy() for name, tensor in feed.items()} for feed in feeds], str(partial))
