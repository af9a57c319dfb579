"""TensorRT's builders: a process's first one, which loads the kernels, is made beside other work, and one stays.

On an H200's host the first one of TensorRT 10.6 takes five seconds: it unpacks 4.7 GiB of kernels. The last one lets
them go, so one of each kind stays. The bindings' constructor holds Python's lock all the while (versions 10.0 to 11.1,
`python/src/infer/pyCore.cpp`): nothing else would run, whichever thread called it. The library's function that it
calls, by which C++ programs make theirs, is called without the lock.

TensorRT talks to its logger, which wants Python's lock, while it holds a lock of its own. Who made a builder meanwhile
with Python's lock held would wait for ever: others that use the bindings wait here for the first one instead, and what
began one lasts no shorter than that.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch

from bridge.errors import BuildError
from bridge.runtime.bindings import TITLES, bindings, logger

_LIBRARIES = {"tensorrt": "libnvinfer.so", "tensorrt_rtx": "libtensorrt_rtx.so"}
_LOCK = threading.Lock()

_begun: dict[str, threading.Thread] = {}
_staying: dict[str, Any] = {}
atexit.register(_staying.clear)


@contextmanager
def beside(name: str, device: torch.device | None = None) -> Iterator[None]:
    """While it lasts, the first builder of this process is made in a thread; what fails there, fails later.

    Args:
        name: of the bindings.
        device: the GPU on which it will build; None, or another device than a GPU: the current one.
    """
    _begin(name, device)
    try:
        yield
    finally:
        _wait(name)


def _begin(name: str, device: torch.device | None) -> None:
    with _LOCK:
        first = _first(name) if name not in _begun and name not in _staying else None
        if first is not None:
            _begun[name] = first.begin(name, _index(device))


def _wait(name: str) -> None:
    work = _begun.get(name)
    if work is not None:
        work.join()


def builder(name: str, errors: list[str]) -> Any:
    """A builder on the current GPU, once the first one is there.

    Args:
        errors: what TensorRT says meanwhile.

    Raises:
        BuildError: this machine cannot build.
    """
    _wait(name)
    try:
        made = bindings(name).Builder(logger(name))
    except (TypeError, RuntimeError) as error:
        why = "\n".join(errors) or str(error)
        raise BuildError(
            f"{TITLES[name]} cannot build on this machine", why=why, hint="it needs an NVIDIA GPU and its driver"
        ) from error
    _staying.setdefault(name, made)
    return made


def _index(device: torch.device | None) -> int | None:
    if not torch.cuda.is_available():
        return None
    given = device.index if device is not None and device.type == "cuda" else None
    return torch.cuda.current_device() if given is None else given


@dataclass(frozen=True)
class _First:
    """The library's own function that makes a builder, what it is given, and the class by which others make theirs."""

    create: Callable[[int, int], int | None]
    logger: int
    version: int
    others: Any
    runtime: Any
    """While there is one, the library knows the logger."""

    def begin(self, name: str, index: int | None) -> threading.Thread:
        """Makes a builder that lasts as long as the process; who needs one finds out what is in the way of it."""
        own = vars(self.others)["__init__"]

        def waits(made: Any, *args: Any, **kwargs: Any) -> None:
            work.join()
            own(made, *args, **kwargs)

        def make() -> None:
            on_device = torch.cuda.device(index) if index is not None else nullcontext()
            with suppress(Exception), on_device, logger(name).errors():
                self.create(self.logger, self.version)
            if vars(self.others)["__init__"] is waits:
                self.others.__init__ = own

        work = threading.Thread(target=make)
        self.others.__init__ = waits
        work.start()
        return work


def _first(name: str) -> _First | None:
    """None where the library's function cannot be called from here, or would not work."""
    trt = bindings(name)
    try:
        with logger(name).errors():
            runtime = trt.Runtime(logger(name))
        library = ctypes.CDLL(f"{_LIBRARIES[name]}.{trt.__version__.partition('.')[0]}", mode=os.RTLD_NOLOAD)
        known, create = library.getLogger, library.createInferBuilder_INTERNAL
        version = library.getInferLibVersion()
    except (AttributeError, OSError, RuntimeError, TypeError):
        return None
    known.restype = create.restype = ctypes.c_void_p
    create.argtypes = (ctypes.c_void_p, ctypes.c_int32)
    return _First(create, known(), version, trt.Builder, runtime)
