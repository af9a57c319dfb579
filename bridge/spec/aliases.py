"""The names that other compilers give our settings, each mapped onto ours or refused with the reason."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch

from bridge.errors import SpecError
from bridge.spec.complaints import wrong
from bridge.spec.dtypes import as_dtype

RENAMED = {
    "input_shapes": "inputs",
    "arg_inputs": "inputs",
    "op_precision": "precision",
    "truncate_long_and_double": "truncate_double",
    "timing_cache_path": "timing_cache",
    "engine_cache_dir": "cache_dir",
    "use_cuda_graphs": "cuda_graphs",
    "use_fp32_acc": "fp32_accumulation",
}

# Settings of Torch-TensorRT that say nothing here: the values that agree with what is done anyway, and why.
_IMPLIED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "ir": (lambda v: v in (None, "default", "ts", "torchscript", "dynamo"), "the module's own kind decides"),
    "use_explicit_typing": (lambda v: v is True, "networks are always strongly typed; precision sets the types"),
    "engine_capability": (lambda v: str(v).lower().endswith(("standard", "default")), "engines are standard"),
    "calibrator": (lambda v: v is None, "TensorRT has dropped calibrators: use bridge.quantize(module, batches)"),
    "refit": (lambda v: not v, "engines are not refitted; compile again, the timing cache makes it quick"),
    "make_refittable": (lambda v: not v, "engines are not refitted; compile again, the timing cache makes it quick"),
    "immutable_weights": (bool, "engines are not refitted; compile again, the timing cache makes it quick"),
    "allow_shape_tensors": (lambda v: True, ""),
    "assume_dynamic_shape_support": (lambda v: True, ""),
    "pass_through_build_failures": (lambda v: True, ""),
    "use_python_runtime": (lambda v: True, ""),
    "use_fast_partitioner": (lambda v: True, ""),
    "num_avg_timing_iters": (lambda v: v in (None, 1), "tactics are timed as TensorRT does by default"),
    "dla_sram_size": (lambda v: True, ""),
    "dla_local_dram_size": (lambda v: True, ""),
    "dla_global_dram_size": (lambda v: True, ""),
    "enable_weight_streaming": (lambda v: not v, "weights stay on the device"),
    "strip_engine_weights": (lambda v: not v, "engines hold their weights"),
    "dryrun": (lambda v: not v, "use bridge.dryrun(module, spec)"),
    "debug": (lambda v: not v, "use `with bridge.logging.debug():`"),
    "input_signature": (lambda v: v is None, "nest the inputs themselves: lists, tuples and dicts are taken"),
}
KNOWN = (*RENAMED, *_IMPLIED, "enabled_precisions")


_OF_MODULES = {torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2}
_LOG = logging.getLogger("bridge.spec")


def translated(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings under our own names.

    Raises:
        SpecError: when one is given by two names, or asks for what is not done here.
    """
    ours: dict[str, Any] = {}
    for name, value in settings.items():
        for known, settled in _one(name, value).items():
            if known in ours:
                raise SpecError(f"{known}: given twice, also as {name}", hint=f"give {known} only")
            ours[known] = settled
    return ours


def _one(name: str, value: Any) -> dict[str, Any]:
    if name in RENAMED:
        return {RENAMED[name]: value}
    if name == "enabled_precisions":
        return {"precision": lowest_precision(value)}
    if name in _IMPLIED:
        agrees, reason = _IMPLIED[name]
        if not agrees(value):
            raise SpecError(f"{name}: {value!r} is not done here", why=reason, hint=f"leave {name} out")
        return {}
    if name == "workspace_size" and value == 0:  # Torch-TensorRT's way to leave it to TensorRT
        return {name: None}
    return {name: value}


def lowest_precision(value: Any) -> torch.dtype:
    """The one precision that a set of enabled ones comes to: float32 only where there is no lower one.

    INT8 and FP8 are the module's: what it rounds to them is in them, whatever the precision of the rest.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        value = (value,)
    found = {as_dtype(item, "enabled_precisions") for item in value}
    lower = found - {torch.float32, *_OF_MODULES}
    if found & _OF_MODULES:
        _LOG.info("enabled_precisions: INT8 and FP8 are where the module rounds to them; bridge.quantize lets it")
    if len(lower) > 1:
        hint = "give one: precision=torch.float16 or precision=torch.bfloat16"
        raise wrong("enabled_precisions", value, "at most one dtype beside torch.float32", hint=hint)
    return next(iter(lower), torch.float32)
