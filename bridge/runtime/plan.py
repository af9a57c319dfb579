"""The container of a built engine: what `bridge::execute_engine` takes as its uint8 tensor.

Layout, little-endian: 8 bytes magic, uint32 format version, uint32 zero, uint64 length of the header, the header
(JSON, UTF-8), then sections, each at a multiple of 256 bytes from the start, zeros between them. The header's
``digest`` is the SHA-256 of the whole container in which the digest itself is written as 64 zeros: the key under which
an engine is loaded once per device.
"""

from __future__ import annotations

import hashlib
import json
import struct
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from bridge._about import __version__
from bridge.errors import EngineError

MAGIC = b"BRIDGEPL"
FORMAT = 1
ALIGNMENT = 256
_PREFIX = struct.Struct("<8sIIQ")
_NO_DIGEST = "0" * 64

Shape = tuple[int, ...]
Profile = dict[str, tuple[Shape, Shape, Shape]]
"""Input name -> its smallest, its most frequent and its largest shape."""


@dataclass(frozen=True)
class Binding:
    """An input or output of an engine.

    Attributes:
        name: the ONNX graph's name for it.
        dtype: its PyTorch name, e.g. ``"float16"``.
        shape: a size, or the name of a dynamic dimension, for each dimension; None where not even the rank is known.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


def made_with() -> dict[str, str]:
    """The versions that a plan keeps of what made it."""
    return {"bridge": __version__, "torch": torch.__version__}


@dataclass(frozen=True)
class PlanHeader:
    """What can be known about a plan without loading it.

    Attributes:
        backend: which backend made it and runs it.
        version: that backend's version.
        device: ``{"name": ..., "capability": "9.0"}`` of the GPU it was built for; empty where any will do.
        settings: the build settings that differ from the defaults.
        notes: what the build changed or wants the user to know, a sentence each.
        made_with: versions of bridge and torch at build time.
    """

    backend: str
    version: str
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    profiles: tuple[Profile, ...] = ()
    device: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    made_with: Mapping[str, str] = field(default_factory=made_with)


class Plan:
    """A view of a plan's bytes; making one copies nothing.

    Args:
        tensor: one-dimensional uint8 tensor, on the CPU, contiguous.

    Raises:
        EngineError: the bytes are no plan, are cut short, or come from a newer version of this package.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        # another Python object over the same storage: what hangs on the caller's tensor can own it without a cycle
        self._tensor = tensor.detach().view(-1)
        self._bytes: np.ndarray[Any, np.dtype[np.uint8]] = self._tensor.numpy()
        record = self._read_record()
        self.digest: str = record.pop("digest")
        self._sections: dict[str, tuple[int, int]] = {
            name: (start, size) for name, start, size in record.pop("sections")
        }
        self.header = _header_from_json(record)
        end = max((start + size for start, size in self._sections.values()), default=0)
        if end > len(self._bytes):
            raise EngineError(f"this plan is cut short: {len(self._bytes):,} of {end:,} bytes", hint="save it again")

    def _read_record(self) -> dict[str, Any]:
        if len(self._bytes) < _PREFIX.size or self._bytes[: len(MAGIC)].tobytes() != MAGIC:
            raise EngineError(
                "these bytes are no plan of bridge", hint="bridge.embed_engine_in_new_module takes raw engines"
            )
        _, version, _, length = _PREFIX.unpack(self._bytes[: _PREFIX.size].tobytes())
        if version != FORMAT:
            raise EngineError(
                f"this plan has format version {version}; this bridge ({__version__}) reads {FORMAT}",
                hint="update bridge, or compile the module again",
            )
        try:
            return dict(json.loads(self._bytes[_PREFIX.size : _PREFIX.size + length].tobytes()))
        except ValueError as error:  # JSON's and UTF-8's
            raise EngineError(
                "this plan is damaged: its header cannot be read", hint="copy or save it again"
            ) from error

    @classmethod
    def pack(cls, header: PlanHeader, sections: Mapping[str, Any]) -> Plan:
        """Writes a new plan; each section (anything C-contiguous with the buffer protocol) is copied once, into it."""
        views = {name: _as_bytes(section) for name, section in sections.items()}
        text, places, total = _lay_out(header, views)
        tensor = torch.empty(total, dtype=torch.uint8)
        data = tensor.numpy()
        prefix = _PREFIX.pack(MAGIC, FORMAT, 0, len(text)) + text
        written = 0
        for start, view in ((0, np.frombuffer(prefix, np.uint8)), *zip(places.values(), views.values(), strict=True)):
            data[written:start] = 0
            written = start + len(view)
            data[start:written] = view
        data[written:] = 0
        digest = hashlib.sha256(data.data).hexdigest().encode()
        at = prefix.index(_NO_DIGEST.encode())
        data[at : at + len(digest)] = np.frombuffer(digest, np.uint8)
        return cls(tensor)

    @classmethod
    def from_tensor(cls, tensor: torch.Tensor) -> Plan:
        """The plan in a uint8 tensor; one on a GPU is copied to the CPU."""
        return cls(tensor.cpu().contiguous())

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Plan:
        """The plan in these bytes, shared, not copied. Its digest is verified."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable", category=UserWarning)
            plan = cls(torch.frombuffer(data, dtype=torch.uint8))
        plan.verify()
        return plan

    @staticmethod
    def is_plan(data: bytes | bytearray | memoryview) -> bool:
        """Whether these bytes begin like a plan."""
        return bytes(data[: len(MAGIC)]) == MAGIC

    def to_tensor(self) -> torch.Tensor:
        """The whole plan as a uint8 tensor, shared, not copied."""
        return self._tensor

    def section(self, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The bytes of a section, shared, not copied."""
        start, size = self._sections[name]
        return self._bytes[start : start + size]

    def section_names(self) -> list[str]:
        """The names of all sections, in their order."""
        return list(self._sections)

    def verify(self) -> None:
        """Computes the digest again (a second per GB); EngineError when the bytes have changed since."""
        header_end = _PREFIX.size + _PREFIX.unpack(self._bytes[: _PREFIX.size].tobytes())[3]
        head = self._bytes[:header_end].tobytes().replace(self.digest.encode(), _NO_DIGEST.encode(), 1)
        hasher = hashlib.sha256(head)
        hasher.update(self._bytes[header_end:].data)
        if hasher.hexdigest() != self.digest:
            raise EngineError("this plan is damaged: its bytes do not match its digest", hint="copy or save it again")


def _as_bytes(section: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if isinstance(section, np.ndarray):
        return np.ascontiguousarray(section).reshape(-1).view(np.uint8)
    return np.frombuffer(section, np.uint8)


def _align(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _lay_out(header: PlanHeader, views: Mapping[str, Any]) -> tuple[bytes, dict[str, int], int]:
    """The header's text, where each section starts, and the length of the whole.

    The header's own length depends on the offsets in it: room for their longest form is set aside, and blanks fill it.
    """
    room = _PREFIX.size + len(_record(header, dict.fromkeys(views, 2**62), views))
    starts, offset = {}, _align(room)
    for name, view in views.items():
        starts[name] = offset
        offset = _align(offset + len(view))
    return _record(header, starts, views).ljust(room - _PREFIX.size), starts, offset


def _record(header: PlanHeader, starts: Mapping[str, int], views: Mapping[str, Any]) -> bytes:
    sections = [(name, start, len(views[name])) for name, start in starts.items()]
    record = {"digest": _NO_DIGEST, **asdict(header), "sections": sections}
    return json.dumps(record, separators=(",", ":")).encode()


def _header_from_json(record: dict[str, Any]) -> PlanHeader:
    def bindings(items: list[dict[str, Any]]) -> tuple[Binding, ...]:
        return tuple(
            Binding(item["name"], item["dtype"], None if item["shape"] is None else tuple(item["shape"]))
            for item in items
        )

    profiles = tuple(
        {name: (tuple(low), tuple(best), tuple(high)) for name, (low, best, high) in profile.items()}
        for profile in record["profiles"]
    )
    fixed = {"inputs": bindings(record["inputs"]), "outputs": bindings(record["outputs"]), "profiles": profiles}
    return PlanHeader(**{**record, **fixed, "notes": tuple(record["notes"])})
