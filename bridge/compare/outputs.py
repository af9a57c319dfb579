"""Comparison of outputs, by Polygraphy's comparator."""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from polygraphy import comparator
from polygraphy.comparator.struct import IterationResult
from polygraphy.exception import PolygraphyException
from polygraphy.logger import G_LOGGER

from bridge.compare.arrays import Array, as_numpy
from bridge.compare.figures import Figures, comparable, figures_of, wrong_elements
from bridge.compare.inputs import InputSet
from bridge.compare.runners import Contender
from bridge.errors import BridgeError, SpecError

_POLYGRAPHY = logging.getLogger("bridge.polygraphy")
Tolerance = float | Mapping[str, float] | None
_MOST = 32  # outputs
RTOL = {"float64": 1e-6, "float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2}
"""Relative tolerance where none is given, by the coarsest of the dtypes of the two and the precision computed in."""


@dataclass(frozen=True)
class OutputRow:
    """One output of one set of inputs.

    Attributes:
        figures: None when the two cannot be compared.
        reason: why it failed.
        atol, rtol: an element is right when it is within either.
    """

    inputs: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    figures: Figures | None
    atol: float
    rtol: float
    passed: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.passed


class Compare:
    """Polygraphy's comparison with tolerances that fit each output's dtype and size, and more figures."""

    def __init__(self, rtol: Tolerance, atol: Tolerance, position: int, precision: str) -> None:
        self.rtol, self.atol, self.position, self.precision = rtol, atol, position, precision

    def __call__(self, found: IterationResult, reference: IterationResult) -> OrderedDict[str, OutputRow]:
        expected, others = _arrays(reference), _arrays(found)
        self._check_names(expected)
        if set(expected) != set(others) and len(expected) == len(others):
            others = dict(zip(expected, others.values(), strict=True))
        rows = OrderedDict((name, self._row(name, array, others.get(name))) for name, array in expected.items())
        for name in others.keys() - expected.keys():
            rows[name] = self._unlike(name, others[name], "the reference has no such output")
        for name in [name for name, row in rows.items() if row.figures is not None and not row.passed]:
            rows[name] = self._moved(rows[name], expected[name], others)
        return rows

    def _moved(self, row: OutputRow, expected: Array, others: Mapping[str, Array]) -> OutputRow:
        """A row that failed, which says so where another output has what was expected."""
        varies = expected.size > 1 and bool((expected != expected.reshape(-1)[0]).any())
        for name, array in list(others.items())[:_MOST] if varies else ():
            alike = name != row.name and array.shape == expected.shape and _kind(array) == _kind(expected)
            if alike and wrong_elements(expected, array, row.rtol, row.atol) is None:
                return replace(row, reason=f"{row.reason}; what was expected came out as {name!r}")
        return row

    def _check_names(self, expected: Mapping[str, object]) -> None:
        for field, given in (("rtol", self.rtol), ("atol", self.atol)):
            unknown = sorted(set(given) - {*expected, ""}) if isinstance(given, Mapping) else []
            if unknown:
                known = ", ".join(expected)
                raise SpecError(f"{field}: there is no output {unknown[0]!r}", hint=f"the outputs: {known}")

    def _row(self, name: str, expected: Array, found: Array | None) -> OutputRow:
        if found is None:
            return self._unlike(name, expected, "it is missing")
        if found.shape != expected.shape:
            return self._unlike(name, expected, f"its shape is {found.shape}")
        left, right = comparable(expected, found)
        rtol = _chosen(self.rtol, name, max(self._default_rtol(expected), self._default_rtol(found)))
        atol = _chosen(self.atol, name, rtol * _size_of(left))
        exact = _kind(expected) == _kind(found) == "i"  # Polygraphy's comparison knows what a double does
        is_right = not left.size or (_finite(left, right) and (exact or _passes(name, right, left, rtol, atol)))
        is_right = is_right and not (exact and wrong_elements(expected, found, rtol, atol))
        reason = "" if is_right else str(wrong_elements(expected, found, rtol, atol) or "outside the tolerances")
        if _kind(found) != _kind(expected):
            reason = "; ".join(filter(None, [f"its dtype is {found.dtype}", reason]))
        figures, dtype = figures_of(expected, found), str(expected.dtype)
        return OutputRow(self.position, name, dtype, expected.shape, figures, atol, rtol, not reason, reason)

    def _default_rtol(self, array: Array) -> float:
        if _kind(array) not in "fc":
            return 0.0
        return max(RTOL.get(str(array.dtype), RTOL["float32"]), RTOL.get(self.precision, 0.0))

    def _unlike(self, name: str, array: Array, reason: str) -> OutputRow:
        return OutputRow(self.position, name, str(array.dtype), array.shape, None, 0.0, 0.0, False, reason)


def compare_outputs(
    reference: Contender,
    compiled: Contender,
    inputs: InputSet,
    position: int,
    rtol: Tolerance,
    atol: Tolerance,
    precision: str = "",
) -> list[OutputRow]:
    """The rows of one set of inputs; ``precision`` is what may be computed in, where outputs do not tell."""
    feed = feed_of(reference, compiled, inputs)
    runners = [side.runner(inputs, list(feed)) for side in (reference, compiled)]
    with quiet_polygraphy():
        try:
            results = comparator.Comparator.run(runners, data_loader=[feed])
        except PolygraphyException as error:
            told = f"{reference.label} and {compiled.label} do not both take set {position} of the inputs"
            raise BridgeError(told, why=str(error)) from error
        (_, (right, *_)), (_, (found, *_)) = results
        return list(Compare(rtol, atol, position, precision)(found, right).values())


def feed_of(reference: Contender, compiled: Contender, inputs: InputSet) -> dict[str, torch.Tensor]:
    """The inputs by the names that ONNX knows them by, else by those of the reference's arguments.

    Raises:
        BridgeError: an ONNX model takes another number of inputs, or other ones.
    """
    module = next((side for side in (reference, compiled) if side.module is not None), None)
    feed = inputs.leaves(module.input_names if module is not None else reference.input_names)
    for side in (reference, compiled):
        feed = renamed(feed, side)
    taken = [reference.input_names, compiled.input_names]
    strange = [name for name in feed if name not in {*taken[0], *taken[1]}]
    if module is None and all(taken) and strange:
        hint = f"the inputs: {', '.join(dict.fromkeys([*taken[0], *taken[1]]))}"
        raise SpecError(f"inputs: neither of the two takes {strange[0]!r}", hint=hint)
    return {name: tensor.detach().cpu() for name, tensor in feed.items()}


def renamed(feed: dict[str, torch.Tensor], side: Contender) -> dict[str, torch.Tensor]:
    """The inputs by the names that an ONNX model knows them by; by position where they go by others.

    Raises:
        BridgeError: it takes another number of them.
    """
    if side.model is None or set(side.input_names) <= set(feed):
        return feed
    if len(side.input_names) != len(feed) or set(side.input_names) & set(feed):
        told = f"{side.label} takes {', '.join(side.input_names)}; given: {', '.join(feed)}"
        raise BridgeError(told, hint="give the inputs as a dict by name")
    return dict(zip(side.input_names, feed.values(), strict=True))


@contextlib.contextmanager
def quiet_polygraphy() -> Iterator[None]:
    """Polygraphy's messages go to the logger ``bridge.polygraphy``: warnings as information, all others to be debugged.

    They say in many lines what the report says in a table.
    """
    severity = G_LOGGER.VERBOSE if _POLYGRAPHY.isEnabledFor(logging.DEBUG) else G_LOGGER.WARNING
    if not hasattr(G_LOGGER, "use_python_logging_system"):  # an older one
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            yield
        return
    before, colors = G_LOGGER.use_python_logging_system, G_LOGGER.colors
    with G_LOGGER.verbosity(severity):
        G_LOGGER.use_python_logging_system, G_LOGGER.colors, G_LOGGER.python_logger = True, False, _Demoting()
        try:
            yield
        finally:
            G_LOGGER.use_python_logging_system, G_LOGGER.colors = before, colors


class _Demoting:
    """What Polygraphy takes for a logger of Python's."""

    def log(self, level: int, msg: str) -> None:
        """Errors too are for the debug level: they are raised, or the report has them."""
        _POLYGRAPHY.log(logging.INFO if level == G_LOGGER.WARNING else logging.DEBUG, "%s", msg)


def _passes(name: str, found: Array, expected: Array, rtol: float, atol: float) -> bool:
    simple: Any = getattr(comparator, "SimpleCompareFunc", None) or comparator.CompareFunc.simple
    check = simple(rtol=rtol, atol=atol, check_error_stat="elemwise")
    left, right = (IterationResult(OrderedDict([(name, array)])) for array in (found, expected))
    return all(map(bool, check(left, right).values()))


def _kind(array: Array) -> str:
    """Bool, integer, floating or complex; within one of them an engine may have another width."""
    return {"u": "i", "V": "f"}.get(array.dtype.kind, array.dtype.kind)


def _finite(*arrays: Array) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)


def _arrays(result: IterationResult) -> dict[str, Array]:
    return {name: as_numpy(value) for name, value in result.items()}


def _size_of(array: Array) -> float:
    """The root mean square: what an absolute tolerance is measured against where none is given."""
    finite = array[np.isfinite(array)]
    return float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0


def _chosen(given: Tolerance, name: str, default: float) -> float:
    if isinstance(given, Mapping):
        return given.get(name, given.get("", default))
    return default if given is None else given
