"""A PyTorch function as an ONNX graph: exported by whichever exporter can, and checked against the function before use.

Both exporters give wrong graphs without a word now and then (sizes frozen, duplicate indices lost), so a graph is
believed only when ONNX Runtime gives the function's own results with it, at the sizes at hand and at others.
torch is imported by the functions, not by the module.
"""

from __future__ import annotations

import io
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import version_converter

from rewrites.errors import Refusal
from rewrites.mending import mend_casts, round_results
from rewrites.trials import Function, Operand, Trial, axes_of, brief, flat, run_trials

_NEWEST_EXPORT = 20
_MOST_SECONDS = 30.0
_TOLERANCE = {"float16": 1e-2, "bfloat16": 4e-2}


@dataclass(frozen=True)
class Way:
    """One way to export: its name, the exporter, what to do with the function before, and the samples it is for."""

    name: str
    export: Callable[[Any, tuple[Any, ...], int, Sequence[Sequence[int]]], onnx.ModelProto]
    prepare: Callable[[Function, tuple[Any, ...]], Function] = lambda function, samples: function
    fits: Callable[[tuple[Any, ...]], bool] = lambda samples: True


def by_torchscript(module: Any, samples: tuple[Any, ...], opset: int, axes: Sequence[Sequence[int]]) -> onnx.ModelProto:
    """Export by tracing."""
    import torch

    names, buffer = [f"in{i}" for i in range(len(samples))], io.BytesIO()
    dynamic = {name: {i: f"{name}_{i}" for i in chosen} for name, chosen in zip(names, axes, strict=True)}
    export: Any = torch.onnx.export
    with _silent_stdout():
        export(module, samples, buffer, input_names=names, dynamic_axes=dynamic, opset_version=opset, dynamo=False)
    return onnx.load_from_string(buffer.getvalue())


def by_torch_export(
    module: Any, samples: tuple[Any, ...], opset: int, axes: Sequence[Sequence[int]]
) -> onnx.ModelProto:
    """Export by torch.export, PyTorch's core decompositions included."""
    import torch

    dynamic = tuple(dict.fromkeys(chosen, torch.export.Dim.DYNAMIC) for chosen in axes)
    program = torch.onnx.export(
        module, samples, dynamic_shapes=(dynamic,), opset_version=max(opset, 18), dynamo=True, verbose=False
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave nothing")
    inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(program.model_proto)
    return inlined


WAYS = (Way("TorchScript", by_torchscript), Way("torch.export", by_torch_export))


class Exporter:
    """Exports of one function, each made once; what failed is remembered too.

    Args:
        function: takes the tensors by position.
        ways: how to export, in order.
        trusted: whether a graph that nothing here can run is believed all the same.
    """

    def __init__(self, ways: Sequence[Way] = WAYS, *, trusted: bool = True) -> None:
        self._ways, self._trusted = tuple(ways), trusted
        self._known: dict[Any, onnx.ModelProto | str] = {}

    def export(self, function: Function, key: Any, operands: Sequence[Operand], opset: int) -> onnx.ModelProto:
        """The function as a graph: with all axes dynamic, or with the static axes of the operands frozen.

        Args:
            function: takes the tensors by position.
            key: what tells the function from others.
            operands: its tensors.
            opset: of the default domain.

        Raises:
            Refusal: when the function refuses or no way gives a right graph.
        """
        wide = (key, opset, tuple(o.kind for o in operands))
        narrow = (*wide, tuple(o.dims for o in operands))
        for known in (self._known.get(wide), self._known.get(narrow)):
            if isinstance(known, onnx.ModelProto):
                return known
        for key in (wide, narrow):
            if key in self._known:
                raise Refusal(str(self._known[key]))
        try:
            model, frozen = _search(function, self._ways, operands, opset, self._trusted)
        except _NoExporter as refusal:
            self._known[wide] = refusal.reason
            raise
        except Refusal as refusal:
            self._known[narrow] = refusal.reason
            raise
        self._known[narrow if frozen else wide] = model
        return model


class _NoExporter(Refusal):
    """No exporter knows an operator in the function: nor would it at other sizes."""


def _search(
    function: Function, ways: Sequence[Way], operands: Sequence[Operand], opset: int, trusted: bool
) -> tuple[onnx.ModelProto, bool]:
    """The first right graph, and whether the static axes are frozen in it."""
    problems: list[str] = []
    unknown = True
    deadline = time.monotonic() + _MOST_SECONDS
    with _quiet():
        for frozen in (False, True):
            if frozen and not trusted and not any(o.varies(i) > o.varies(i, True) for o, i in axes_of(operands)):
                continue
            trials = run_trials(function, operands, frozen, trusted)
            if not trials:
                problems.append("the function takes no other sizes")
                continue
            for way in (way for way in ways if way.fits(trials[0].samples)):
                if time.monotonic() > deadline:
                    raise Refusal("no exporter gave a right graph in time: " + "; ".join(problems))
                try:
                    model = _export(function, way, trials[0], operands, opset, frozen)
                    _check(function, model, trials, trusted)
                    return model, frozen
                except Refusal:
                    raise
                except Exception as error:
                    problems.append(f"{way.name}: {brief(error)}")
                    unknown = unknown and _is_unknown(error)
            if trials and unknown:
                break
    refusal = _NoExporter if trials and unknown else Refusal
    raise refusal("no exporter gives a right graph: " + "; ".join(dict.fromkeys(problems)))


def _is_unknown(error: BaseException | None) -> bool:
    """Whether an exporter failed because it does not know an operator."""
    while error is not None:
        if type(error).__name__ in ("UnsupportedOperatorError", "DispatchError"):
            return True
        error = error.__cause__ or error.__context__
    return False


def _export(
    function: Function, way: Way, trial: Trial, operands: Sequence[Operand], opset: int, frozen: bool
) -> onnx.ModelProto:
    import torch

    prepared = way.prepare(function, trial.samples)

    class Module(torch.nn.Module):
        def forward(self, *given: Any) -> Any:
            return prepared(*given)

    axes = [
        [i for i, size in enumerate(s.shape) if size > 1 and o.varies(i, frozen)]
        for s, o in zip(trial.samples, operands, strict=False)
    ]
    with torch.no_grad():
        model = way.export(Module().eval(), trial.samples, min(opset, _NEWEST_EXPORT), axes)
    mend_casts(model.graph)
    round_results(model.graph, trial.results)
    strange = {n.domain for n in model.graph.node} - {"", "ai.onnx"}
    if strange or model.functions:
        raise RuntimeError(f"the graph has operators that are not ONNX's own: {', '.join(sorted(strange))}")
    if len(model.graph.input) != len(trial.samples):
        raise RuntimeError("the graph does not read every tensor")
    model = _at_opset(model, opset)
    onnx.shape_inference.infer_shapes(model, strict_mode=True)  # raises where a node does not take what it is given
    return model


def _at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    have = next(o.version for o in model.opset_import if o.domain == "")
    return model if have == opset else version_converter.convert_version(model, opset)


def _check(function: Function, model: onnx.ModelProto, trials: Sequence[Trial], trusted: bool) -> None:
    """Run the graph and compare with the function's results.

    Raises:
        RuntimeError: when it cannot be run and is not trusted.
        AssertionError: when the results differ.
    """
    from rewrites import testing

    names = [i.name for i in model.graph.input]
    for trial in trials:
        arrays = dict(zip(names, (_array(s) for s in trial.samples), strict=False))
        try:
            results = testing.run(model, arrays)
        except AssertionError as error:
            if trusted and trial is trials[0]:
                return
            raise RuntimeError(f"cannot be run at other sizes or on this machine: {brief(error)}") from error
        expected = [_array(r) for r in trial.results]
        close = max([1e-4, *(_TOLERANCE.get(str(e.dtype), 0.0) for e in expected)])
        try:
            testing.compare(results, expected, close, close)
        except AssertionError:
            if not _as_near_as_its_own(function, trial, results, expected, close):
                raise


def _as_near_as_its_own(
    function: Function, trial: Trial, results: Sequence[Any], expected: Sequence[Any], close: float
) -> bool:
    """Whether results in sixteen bits err by at most four times as much as the function's own, against it in FP32.

    Where long sums or exponentials make rounding grow, two right ways to compute differ by more than any tolerance of
    a single operation; and processors differ in how they add sixteen bits up.
    """
    import torch

    if not any(str(e.dtype) in _TOLERANCE for e in expected):
        return False
    samples = [s.float() if s.dtype.itemsize == 2 and s.is_floating_point() else s for s in trial.samples]
    try:
        with torch.no_grad():
            exact = [_array(r) for r in flat(function(*samples))]
    except Exception:
        return False  # the function holds tensors of sixteen bits
    for result, own, e in zip(results, expected, exact, strict=True):
        if (result.dtype, result.shape) != (own.dtype, own.shape) or e.shape != own.shape:
            return False
        result, own, e = (x.astype(np.float64) for x in (result, own, e))
        error = 4 * np.abs(own - e).max(initial=0.0)
        if not np.isfinite(error) or not (np.abs(result - e) <= error + close * (1 + np.abs(e))).all():
            return False
    return True


def _array(tensor: Any) -> np.ndarray[Any, Any]:
    import torch

    tensor = torch.as_tensor(tensor).detach().contiguous()
    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        return np.asarray(tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16))
    return np.asarray(tensor.numpy())


@contextmanager
def _silent_stdout() -> Iterator[None]:
    """Drop what C++ prints: the tracing exporter prints its graph whenever it fails, whatever its log settings."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:
        yield
        return
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyTorch's generator as it is, and the exporters' warnings from the user."""
    import logging

    import torch

    loggers = [logging.getLogger(n) for n in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=False):
                logger.setLevel(level)
