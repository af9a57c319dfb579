"""Names that the user left to PyTorch and that name nothing: most often they are misspelt."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterable

from bridge.frontend.provenance import Origin
from bridge.spec import CompileSpec

_LOG = logging.getLogger("bridge.partition")


def warn_of_names_of_nothing(spec: CompileSpec, origins: Iterable[Origin]) -> None:
    """Warns of operators and modules to be left to PyTorch that the program does not have."""
    known = list(origins)
    operators = {origin.operator for origin in known if not origin.operator.startswith("prim::")}
    _warn("torch_executed_ops", "operator", [op for op in spec.torch_executed_ops if op not in operators], operators)
    modules = {str(module) for module in spec.torch_executed_modules}
    strange = [name for name in modules if not any(within(o.module_path, o.module_type, name) for o in known)]
    _warn("torch_executed_modules", "module", strange, {o.module_path for o in known if o.module_path})


def warn_of_fp32_of_nothing(names: Collection[str], origins: Iterable[Origin]) -> None:
    """Warns of layers to be kept in FP32 that no engine has."""
    _warn("keep_fp32", "layer and no operator of ONNX", names, {o.module_path for o in origins if o.module_path})


def _warn(field: str, noun: str, strange: Collection[str], known: Collection[str]) -> None:
    for name in sorted(strange):
        near = difflib.get_close_matches(name, sorted(known), 1, 0.6)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        _LOG.warning("%s: no %s of this module is called %r%s", field, noun, name, meant)


def within(path: str, type_: str, name: str) -> bool:
    """Whether a name is that of a module, of one around it, or of its type, with or without the type's own module."""
    return path == name or path.startswith(f"{name}.") or type_ == name.rpartition(".")[2]
