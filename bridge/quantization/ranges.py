"""How large the numbers of tensors are, over all batches of a calibration."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_BINS = 4096
_LIBRARY = torch.library.Library("bridge_calibrate", "DEF")
_LIBRARY.define("note(Tensor value, int index) -> ()", alias_analysis="CONSERVATIVE")
_LOCK = threading.Lock()
_noted: dict[int, Magnitudes] = {}


class Magnitudes:
    """A histogram of absolute values, which is folded to twice its range where larger ones come."""

    def __init__(self) -> None:
        self.largest = self.top = 0.0
        self.counts = torch.zeros(_BINS, dtype=torch.float64)

    def add(self, tensor: torch.Tensor) -> None:
        """Counts the finite numbers of a tensor."""
        numbers = tensor.detach().float().abs().flatten()
        numbers = numbers[numbers.isfinite()]
        largest = float(numbers.max()) if numbers.numel() else 0.0
        if largest == 0.0:
            self.counts[0] += numbers.numel()
            return
        self.largest, self.top = max(self.largest, largest), self.top or largest
        while self.top < largest:
            self.counts = torch.cat([self.counts.view(-1, 2).sum(1), torch.zeros(_BINS // 2, dtype=torch.float64)])
            self.top *= 2
        self.counts += torch.histc(numbers.cpu(), _BINS, 0.0, self.top)

    def limit(self, percentile: float) -> float:
        """What ``percentile`` percent of the numbers do not exceed; of 100, the largest."""
        if percentile == 100 or not self.top:
            return self.largest
        below = self.counts.cumsum(0) >= self.counts.sum() * percentile / 100
        return min(self.largest, (int(below.nonzero()[0]) + 1) * self.top / _BINS)


def _note(value: torch.Tensor, index: int) -> None:
    _noted[index].add(value)


_LIBRARY.impl("note", _note, "CompositeExplicitAutograd")


@contextmanager
def noted(count: int) -> Iterator[list[Magnitudes]]:
    """While it is entered, the operator ``bridge_calibrate::note`` fills these, by its index."""
    with _LOCK:
        found = [Magnitudes() for _ in range(count)]
        _noted.update(enumerate(found))
        try:
            yield found
        finally:
            _noted.clear()
