"""Calls of a whole module as CUDA graphs: its engines and what PyTorch runs between them, launched at once."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils import _pytree as pytree

from bridge.runtime.cuda_graphs import capture
from bridge.torch_private import DispatchMode

log = logging.getLogger("bridge.runtime")

_MOST_GRAPHS = 8
_WARM_UPS = 3  # TorchScript settles on what it runs in the first calls


class GraphedModule(torch.nn.Module):
    """A module whose calls are captured, once for each set of shapes, and replayed.

    The outputs are copies, without gradients, which later calls leave alone. What cannot be captured runs as it is; the
    log says why, once for each set of shapes: work on the host that waits for the GPU, inputs that are not on the GPU,
    or that are written to. So do calls with inputs that ask for a gradient, and calls inside a capture of the caller's.
    The ``_MOST_GRAPHS`` sets of shapes that were called last are kept.

    Args:
        module: on one GPU. A call must do the same work whenever shapes, and arguments that are no tensors, are equal.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module
        self._graphs: OrderedDict[Hashable, _Captured | None] = OrderedDict()
        self._lock = threading.Lock()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        leaves, tree = pytree.tree_flatten((args, kwargs))
        learns = torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in leaves)
        if not learns and not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
            with self._lock, torch.no_grad(), _on_device_of(leaves):
                captured = self._captured(leaves, tree)
                if captured is not None:
                    return captured.replay(leaves)
        return self.module(*args, **kwargs)

    def _captured(self, leaves: list[Any], tree: pytree.TreeSpec) -> _Captured | None:
        stream = torch.cuda.current_stream().cuda_stream if torch.cuda.is_available() else 0
        key = (*map(_key_of, leaves), str(tree), stream)
        if key not in self._graphs:
            if len(self._graphs) >= _MOST_GRAPHS:
                self._graphs.popitem(last=False)
            self._graphs[key] = self._capture(leaves, tree)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _capture(self, leaves: list[Any], tree: pytree.TreeSpec) -> _Captured | None:
        why = _why_not(leaves)
        if why is None:
            try:
                return _Captured(self.module, leaves, tree)
            except RuntimeError as error:
                why = str(error)
        log.warning("a module runs without a CUDA graph: %s", why)
        return None


def _on_device_of(leaves: Sequence[Any]) -> AbstractContextManager[object]:
    """The GPU of the inputs as the current one; nothing without inputs on a GPU."""
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor) and leaf.is_cuda:
            return torch.cuda.device(leaf.device)
    return nullcontext()


def _key_of(leaf: Any) -> Hashable:
    if isinstance(leaf, torch.Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device
    return type(leaf), leaf if isinstance(leaf, Hashable) else id(leaf)


def _why_not(leaves: Sequence[Any]) -> str | None:
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if not tensors:
        return "no input is a tensor"
    places = {str(tensor.device) for tensor in tensors}
    if len(places) > 1 or not tensors[0].is_cuda:
        return f"inputs are on {', '.join(sorted(places))}, and not all on one GPU"
    return None


class _Watch(DispatchMode):
    """Finds operators that wait for the GPU, or copy between it and the CPU, before a capture fails at them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in pytree.tree_leaves((args, result)) if isinstance(x, torch.Tensor)]
        if any(x.is_cuda for x in tensors) and self._waits(func, args, tensors):
            self.waits.add(str(func))
        return result

    @staticmethod
    def _waits(func: Any, args: Sequence[Any], tensors: Sequence[torch.Tensor]) -> bool:
        if func.overloadpacket in _INDEXING:  # a mask becomes indices, whose number only the GPU knows
            return any(x is not None and x.dtype in _MASKS for x in args[1])
        if func.overloadpacket in _COPYING:
            return not all(x.is_cuda for x in tensors)
        return not _WAITING.isdisjoint(func.tags)


_WAITING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)
_COPYING = (torch.ops.aten._to_copy, torch.ops.aten.copy_)
_MASKS = (torch.bool, torch.uint8)


class _Captured:
    """One graph, with memory of its own for inputs and outputs."""

    def __init__(self, module: torch.nn.Module, leaves: list[Any], tree: pytree.TreeSpec) -> None:
        with torch.inference_mode(False), torch.no_grad():  # tensors that can be written to in any mode
            self._leaves = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(self._leaves, tree)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            versions = self._versions()
            for _ in range(_WARM_UPS):
                module(*args, **kwargs)
            if self._versions() != versions:
                raise RuntimeError("the module writes to its inputs")
            with _Watch() as watch:
                module(*args, **kwargs)
            if watch.waits:
                raise RuntimeError(f"it waits for the GPU in {', '.join(sorted(watch.waits))}")
        self._graph = torch.cuda.CUDAGraph()
        with capture(self._graph, side):
            outputs = module(*args, **kwargs)
        torch.cuda.current_stream().wait_stream(side)
        self._outputs, self._tree = pytree.tree_flatten(outputs)
        if not all(value.is_cuda for value in self._outputs if isinstance(value, torch.Tensor)):
            raise RuntimeError("an output is on the CPU")

    def _versions(self) -> list[int]:
        return [leaf._version for leaf in self._leaves if isinstance(leaf, torch.Tensor)]

    def replay(self, leaves: Sequence[Any]) -> Any:
        """Runs on the current stream."""
        for mine, given in zip(self._leaves, leaves, strict=True):
            if isinstance(mine, torch.Tensor):
                mine.copy_(given)
        self._graph.replay()
        return pytree.tree_unflatten(
            [value.clone() if isinstance(value, torch.Tensor) else value for value in self._outputs], self._tree
        )
