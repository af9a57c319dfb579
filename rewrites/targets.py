"""Targets: what a graph is rewritten for, in which version, and which opsets its parser reads."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass

from rewrites.errors import RewriteError

# (first version, oldest opset, newest opset), from the first line of docs/operators.md in onnx-tensorrt's branches
# (8.5-GA to 10.1-GA, and 10.15's), TensorRT's support matrices, and ONNX Runtime's compatibility table.
_OPSETS: dict[str, list[tuple[str, int, int]]] = {
    "tensorrt": [("8.5", 9, 17), ("9.0", 9, 19), ("10.0", 9, 20), ("10.13", 9, 22), ("10.15", 9, 24), ("11.0", 9, 25)],
    "tensorrt_rtx": [("1.0", 9, 22), ("1.3", 9, 24)],
    "onnxruntime": [("1.15", 7, 19), ("1.17", 7, 20), ("1.18", 7, 21), ("1.20", 7, 22), ("1.23", 7, 23)],
}
_SUPPOSED = {"tensorrt": "10.13", "tensorrt_rtx": "1.3", "onnxruntime": "1.20"}
_RTX_AS_TENSORRT = [("1.0", "10.12"), ("1.3", "10.14")]
_PACKAGES = {
    "tensorrt_rtx": ("tensorrt-rtx",),
    "tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
    "onnxruntime": ("onnxruntime",),
}


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(p) for p in re.findall(r"\d+", version)[:3])


@dataclass(frozen=True)
class Target:
    """A compiler and its version.

    Attributes:
        name: "tensorrt", "tensorrt_rtx" or "onnxruntime"; "any" takes every rule, whoever needs it.
        version: as "10.8"; the installed one, or a recent one where none is installed.
    """

    name: str
    version: str

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read "tensorrt", "tensorrt==10.6", "tensorrt:10.6", "onnxruntime" ... as `rewrites.rewrite` is given them.

        Raises:
            RewriteError: for a target that is not known.
        """
        if not isinstance(text, str):
            raise RewriteError(f"target: expected a name, got {text!r}", hint="as 'tensorrt' or 'tensorrt==10.6'")
        name, _, version = text.replace(" ", "").replace("-", "_").replace(":", "==").partition("==")
        if name != "any" and name not in _OPSETS:
            known = ", ".join([*_OPSETS, "any"])
            raise RewriteError(f"unknown target {text!r}", hint=f"one of {known}, with a version as 'tensorrt==10.6'")
        if version and not re.fullmatch(r"\d+(\.\w+)*", version):
            raise RewriteError(f"target {text!r}: {version!r} is no version", hint="as 'tensorrt==10.6'")
        return cls(name, version or _installed(name))

    def opsets(self) -> tuple[int, int]:
        """The oldest and the newest opset that the target reads."""
        rows = _OPSETS.get(self.name, [("0", 1, 10**6)])
        fitting = [r for r in rows if _parts(r[0]) <= _parts(self.version)] or rows[:1]
        return fitting[-1][1], fitting[-1][2]

    def needs(self, needed_by: Mapping[str, str]) -> bool:
        """Whether a rule that says `needed_by` is needed here.

        TensorRT-RTX goes by what is said of "tensorrt" unless the rule names it; "any" names every target.
        """
        if self.name == "any" or "any" in needed_by:
            return True
        if self.name in needed_by:
            return satisfies(self.version, needed_by[self.name])
        if self.name == "tensorrt_rtx" and "tensorrt" in needed_by:
            fitting = [t for r, t in _RTX_AS_TENSORRT if _parts(r) <= _parts(self.version)] or ["10.12"]
            return satisfies(fitting[-1], needed_by["tensorrt"])
        return False

    def __str__(self) -> str:
        return f"{self.name} {self.version}".strip()


def _installed(name: str) -> str:
    for package in _PACKAGES.get(name, ()):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return _SUPPOSED.get(name, "")


def satisfies(version: str, condition: str) -> bool:
    """Whether a version fulfils "all versions", "< 10.8", ">= 9, < 10.8" ...

    Raises:
        RewriteError: when the condition cannot be read.
    """
    if condition.strip() == "all versions":
        return True
    return all(_compare(version, part.strip()) for part in condition.split(","))


def _compare(version: str, part: str) -> bool:
    found = re.fullmatch(r"(<=|>=|<|>|==)\s*([\d.]+)", part)
    if not found:
        raise RewriteError(
            f"cannot read the version condition {part!r}", hint='"all versions", "< 10.8" or ">= 9, < 10.8"'
        )
    want = _parts(found[2])
    have = _parts(version)[: len(want)]
    return {"<": have < want, "<=": have <= want, ">": have > want, ">=": have >= want, "==": have == want}[found[1]]
