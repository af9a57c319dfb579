"""Files that the commands read and write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def load_module(path: Path) -> Any:
    """A ScriptModule (.ts, .pt) or an ExportedProgram (.pt2).

    Raises:
        BridgeError: it is neither.
    """
    import bridge  # noqa: F401 - registers the operator that compiled modules call
    from bridge.runtime.files import open_module

    return open_module(path)


def load_callable(path: Path) -> Any:
    """The same as a module that can be called.

    Raises:
        BridgeError: it is neither.
    """
    import torch

    module = load_module(path)
    return module.module() if isinstance(module, torch.export.ExportedProgram) else module


def inside(compiled: torch.nn.Module) -> torch.jit.ScriptModule:
    """The ScriptModule in what `bridge.compile` gave, whose tensors come and go in a row."""
    import torch

    while not isinstance(compiled, torch.jit.ScriptModule):
        compiled = compiled.compiled  # type: ignore[assignment]
    return compiled


def argument_names(module: Any, method: str = "forward") -> list[str]:
    """The names of a module's arguments, without self.

    Raises:
        SpecError: it has no such method.
    """
    import torch

    from bridge import torch_private
    from bridge.compare.inputs import argument_names as names_of
    from bridge.errors import SpecError

    if isinstance(module, torch.export.ExportedProgram):
        return [str(name) for name in module.graph_signature.user_inputs]
    if not isinstance(module, torch.jit.ScriptModule):
        return names_of(module)
    known = torch_private.method_names(module)
    if method not in known:
        raise SpecError(f"the module has no method {method!r}", hint=f"its methods: {', '.join(known) or 'none'}")
    return [argument.name for argument in getattr(module, method).schema.arguments[1:]]


def has_required(module: Any, method: str = "forward") -> bool:
    """Whether a method has arguments without a default."""
    if not hasattr(module, method):  # an exported program
        return bool(argument_names(module, method))
    return any(not argument.has_default_value() for argument in getattr(module, method).schema.arguments[1:])


def size_of(module: Any) -> int:
    """About how many bytes a saved module has: parameters, buffers and plans."""
    from bridge.runtime.calls import engine_calls

    plans = {call.plan.data_ptr(): call.plan.numel() for call in engine_calls(module)}
    kept = {t.data_ptr(): t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers())}
    return int(sum(plans.values()) + sum(kept.values()))


def tensors_in(value: Any, name: str = "output") -> dict[str, torch.Tensor]:
    """Every tensor in a nest, by a dotted name."""
    import torch

    if isinstance(value, torch.Tensor):
        return {name: value}
    if not isinstance(value, dict | list | tuple):
        return {}
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: found for part, child in pairs for key, found in tensors_in(child, f"{name}.{part}").items()}
