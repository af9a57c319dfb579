"""The page beside the JSON: what each compiler took, as bars and as a table."""

from __future__ import annotations

from statistics import median
from typing import Any

from bridge.report import chart, page, table
from bridge.report.html import section

Rows = list[dict[str, Any]]

_FIGURES = (
    ("eager, half", "eager", "ms"),
    ("torch.compile, max-autotune", "torch_compile", "ms"),
    ("Torch-TensorRT, dynamo", "torch_tensorrt", "ms"),
    ("Torch-TensorRT, TorchScript", "torch_tensorrt_ts", "ms"),
    ("ours, half module and inputs", "ours_half", "ms"),
    ("ours, half, never a CUDA graph", "ours_half", "plain_ms"),
    ("ours, FP32 module and inputs", "ours", "ms"),
    ("its engine, raw", "ours_half", "raw_ms"),
    ("Torch-TensorRT, dynamo, CUDA graph", "torch_tensorrt", "graph_ms"),
    ("Torch-TensorRT, TorchScript, CUDA graph", "torch_tensorrt_ts", "graph_ms"),
    ("ours, half, CUDA graph", "ours_half", "graph_ms"),
    ("its engine, raw, CUDA graph", "ours_half", "raw_graph_ms"),
)
_COLUMNS = (
    ("build", "set_up_s"),
    ("build", "builder_s"),
    ("build", "beyond_build_s"),
    ("build", "beyond_s"),
    ("time", "ms"),
    ("time", "us_back_to_back"),
    ("time", "raw_us_back_to_back"),
    ("time", "error"),
    ("time", "allocated_mib"),
    ("time", "beyond"),
)


def figure(rows: Rows, model: str, step: str, compiler: str, key: str) -> float | None:
    """The median over the builds of one figure."""
    of = {"model": model, "step": step, "compiler": compiler}
    found = [row[key] for row in rows if row.items() >= of.items() and row.get(key) is not None]
    return median(found) if found else None


def page_of(rows: Rows) -> str:
    """The whole page."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    known = next((row["versions"] for row in rows if "versions" in row), {})
    parts = [_model(rows, model) for model in models]
    failed = [(row["model"], row["step"], row.get("compiler"), row["failed"]) for row in rows if "failed" in row]
    if failed:
        parts.append(section("What gave no figures", table(("model", "step", "compiler", "why"), failed)))
    verdict = f"{len(models)} models; milliseconds of synchronised calls, medians over the builds"
    return page("Benchmarks on the GPU", verdict, *parts, subtitle=", ".join(f"{k} {v}" for k, v in known.items()))


def _model(rows: Rows, model: str) -> Any:
    found = [(label, figure(rows, model, "time", compiler, key)) for label, compiler, key in _FIGURES]
    bars = [(label, value) for label, value in found if value is not None]
    compilers = list(dict.fromkeys(row["compiler"] for row in rows if row["model"] == model and "compiler" in row))
    lines = [(name, *(figure(rows, model, step, name, key) for step, key in _COLUMNS)) for name in compilers]
    return section(model, chart(bars, unit="ms"), table(("compiler", *(key for _, key in _COLUMNS)), lines))
