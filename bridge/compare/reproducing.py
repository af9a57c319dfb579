"""A folder that shows an error by itself: the smallest ONNX model, its values, and a script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from polygraphy.json import save_json

from bridge.compare.arrays import Array
from bridge.compare.outputs import quiet_polygraphy

_SCRIPT = '''"""{told}

Runs smallest.onnx on the values that values.json has for its inputs, in {title}, and compares the results with the
right ones. Exit code 1: the error is there.

    python reproduce.py [model.onnx]

Polygraphy makes the model smaller still, where that is possible:

    polygraphy debug reduce smallest.onnx -o smaller.onnx --check python reproduce.py polygraphy_debug.onnx
"""

import pathlib
import sys

import numpy
from polygraphy.json import load_json

BOUND = {bound!r}
HERE = pathlib.Path(__file__).parent


def runner(path):
{runner}


(values,) = load_json(str(HERE / "values.json"))
is_wrong = False
with runner(sys.argv[1] if len(sys.argv) > 1 else str(HERE / "smallest.onnx")) as active, numpy.errstate(all="ignore"):
    given = {{name: values.get(name) for name in active.get_input_metadata()}}
    is_known = all(value is not None for value in given.values())  # a smaller model may ask for more
    found = active.infer(given) if is_known else {{}}
    for name in filter(values.__contains__, found):
        right, other = (numpy.asarray(arrays[name]).astype(numpy.float64) for arrays in (values, found))
        same = (right == other) | (numpy.isnan(right) & numpy.isnan(other))
        error = numpy.linalg.norm(numpy.where(same, 0.0, other - right))
        error = error / numpy.linalg.norm(numpy.where(numpy.isfinite(right), right, 0.0)) if error else 0.0
        print(f"{{name}}: relative error {{error:.3g}}")
        is_wrong |= not error <= BOUND
sys.exit(is_wrong)
'''
_TENSORRT = """
from polygraphy.backend.trt import CreateConfig, EngineFromNetwork, NetworkFromOnnxPath, TrtRunner

network = NetworkFromOnnxPath(path, strongly_typed=True)
return TrtRunner(EngineFromNetwork(network, config=CreateConfig(tf32={tf32})))
"""
_RTX = """
import os

os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"
"""
_RUNNERS = {
    "onnxruntime": (
        "ONNX Runtime",
        """
import onnxruntime
from polygraphy.backend.onnxrt import OnnxrtRunner

options = onnxruntime.SessionOptions()
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
return OnnxrtRunner(lambda: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
""",
    ),
    "tensorrt": ("TensorRT", _TENSORRT),
    "tensorrt_rtx": ("TensorRT-RTX", _RTX + _TENSORRT),
}


def write(
    folder: Path, model: onnx.ModelProto, values: Mapping[str, Array], told: str, bound: float, backend: str, tf32: bool
) -> list[Path]:
    """Writes ``smallest.onnx``, ``values.json`` (Polygraphy's JSON) and ``reproduce.py``; gives their paths.

    Args:
        values: what goes into the model and what must come out, by name, and whatever is known of the values between.
        told: what the error is, in a sentence.
        bound: the relative error above which a result is wrong.
        backend: where it is wrong: ``"onnxruntime"``, ``"tensorrt"`` or ``"tensorrt_rtx"``.
        tf32: whether engines may compute FP32 in TF32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("smallest.onnx", "values.json", "reproduce.py")]
    onnx.save(model, paths[0])
    with quiet_polygraphy():
        save_json([dict(values)], str(paths[1]))
    title, code = _RUNNERS[backend]
    lines = [f"    {line}" if line else "" for line in code.strip().format(tf32=tf32).splitlines()]
    paths[2].write_text(_SCRIPT.format(told=told, title=title, bound=bound, runner="\n".join(lines)), encoding="utf-8")
    return paths
