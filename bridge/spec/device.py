"""Which device a module is compiled for."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bridge.errors import SpecError
from bridge.spec.complaints import wrong

_MOST_GPUS = 127  # what an index of PyTorch's holds


@dataclass(frozen=True)
class Device:
    """A device, in Torch-TensorRT's form: ``Device("cuda:0")`` or ``Device(gpu_id=0)``.

    A plain ``torch.device``, "cuda:1" or 1 says the same in a spec.
    """

    spec: str | torch.device | None = None
    gpu_id: int | None = None
    dla_core: int = -1
    allow_gpu_fallback: bool = False

    def __post_init__(self) -> None:
        if self.dla_core >= 0 or str(self.spec).startswith("dla"):
            raise SpecError(
                "device: DLA cores are not supported",
                why="there is none on the machines that this is tested on",
                hint='leave device out, or say "cuda:0"',
            )
        if self.gpu_id is not None and not _is_index(self.gpu_id):
            raise wrong("Device.gpu_id", self.gpu_id, "the index of a GPU")
        if self.spec is not None and self.gpu_id is not None and self.torch_device.index not in (None, self.gpu_id):
            raise SpecError(f"Device: {self.spec} and gpu_id={self.gpu_id} are two devices", hint="give one of them")
        _ = self.torch_device

    @property
    def torch_device(self) -> torch.device:
        """The same device as PyTorch names it."""
        if self.spec is not None:
            named = as_device("Device.spec", str(self.spec).replace("gpu:", "cuda:"))
            if self.gpu_id is None or named.type != "cuda" or named.index is not None:
                return named
        return torch.device("cuda", self.gpu_id or 0)


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_GPUS


def as_device(field: str, value: object) -> torch.device:
    """A torch.device from a torch.device, "cuda:1", a GPU's index, a `Device` or Torch-TensorRT's own.

    Raises:
        SpecError: when it is none of these, or neither a CPU nor a GPU.
    """
    if isinstance(value, Device):
        return value.torch_device
    if isinstance(value, int) and _is_index(value):
        return torch.device("cuda", value)
    gpu_id = getattr(value, "gpu_id", None)
    if isinstance(gpu_id, int):
        return Device(gpu_id=gpu_id, dla_core=getattr(value, "dla_core", -1)).torch_device
    try:
        device: torch.device = torch.device(value)  # type: ignore[call-overload]
    except (RuntimeError, TypeError, ValueError):
        raise wrong(field, value, 'a device such as "cuda:0" or "cpu"') from None
    if device.type not in ("cuda", "cpu"):
        raise wrong(field, value, 'a device such as "cuda:0" or "cpu"')
    return device
