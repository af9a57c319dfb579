"""One side of a comparison in a process of its own: for the other TensorRT, or another version of it.

TensorRT and TensorRT-RTX do not share a process, nor do two versions of one of them. The child, ``python -m
bridge.compare.child FOLDER``, runs what `ChildRunner` names in that folder on the inputs that lie there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import onnx
import torch
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata

from bridge.compare.inputs import InputSet
from bridge.errors import BridgeError, SpecError

_REQUEST, _RESULTS = "request.pt", "results.pt"


class ChildRunner(BaseRunner):  # type: ignore[misc]
    """Runs a saved module, an ONNX model or an engine in a child process.

    Args:
        thing: the path of one of them, a ScriptModule, a ModelProto, or an engine's bytes.
        names: of the tensors in ``inputs``, in order.
        python: the child's interpreter; its environment needs bridge and its own TensorRT.
    """

    def __init__(self, thing: Any, inputs: InputSet, names: list[str], name: str, python: str) -> None:
        super().__init__(name=name, prefix="child-runner")
        self.thing, self.inputs, self.names, self.python = thing, inputs, names, python

    def activate_impl(self) -> None:
        """Makes the folder that both processes see, with what is run."""
        self.folder = tempfile.TemporaryDirectory(prefix="bridge-child-")
        self.path = _saved(self.thing, Path(self.folder.name))

    def deactivate_impl(self) -> None:
        """Removes the folder."""
        self.folder.cleanup()

    def get_input_metadata_impl(self) -> TensorMetadata:
        tensors = self.inputs.leaves([]).values()
        return TensorMetadata().from_feed_dict(dict(zip(self.names, tensors, strict=True)))

    def infer_impl(self, feed_dict: dict[str, Any]) -> OrderedDict[str, torch.Tensor]:
        folder = Path(self.folder.name)
        args, kwargs = self.inputs.filled([torch.as_tensor(feed_dict[name]).cpu() for name in self.names])
        request = {"path": str(self.path), "args": args, "kwargs": kwargs, "names": self.names}
        torch.save(request, folder / _REQUEST)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)} if self.python == sys.executable else None
        command = [self.python, "-m", "bridge.compare.child", str(folder)]
        start = time.perf_counter()
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        self.inference_time = time.perf_counter() - start
        if ended.returncode:
            lines = ended.stderr.strip().splitlines()
            raise BridgeError(f"{self.name}: its own process failed", why="\n".join(lines[-5:]) or "it gave no reason")
        if not (folder / _RESULTS).is_file():
            why = f"{self.python} ended without results"
            raise BridgeError(f"{self.name}: its own process failed", why=why, hint="give a Python that has bridge")
        return OrderedDict(torch.load(folder / _RESULTS, weights_only=True))


def _saved(thing: Any, folder: Path) -> Path:
    """The path of what is run, which is written to the folder where it has none."""
    if isinstance(thing, str | Path):
        return Path(thing).resolve()
    if isinstance(thing, bytes | bytearray | memoryview):
        (folder / "thing.engine").write_bytes(thing)
        return folder / "thing.engine"
    if isinstance(thing, onnx.ModelProto):
        onnx.save(thing, folder / "thing.onnx")
        return folder / "thing.onnx"
    if isinstance(thing, torch.jit.ScriptModule):
        torch.jit.save(thing, str(folder / "thing.ts"))
        return folder / "thing.ts"
    told = f"{type(thing).__name__} cannot run in a process of its own"
    raise SpecError(told, hint="give a ScriptModule, an ONNX model, an engine, or the path of one")


def main(folder: Path) -> None:
    """The child: runs what is in the folder and writes the results there."""
    from bridge.compare.outputs import renamed
    from bridge.compare.runners import Contender

    request = torch.load(folder / _REQUEST, weights_only=True)
    side = Contender(request["path"], "child")
    inputs = InputSet(tuple(request["args"]), request["kwargs"])
    feed = renamed(dict(zip(request["names"], inputs.leaves([]).values(), strict=True)), side)
    with side.runner(inputs, list(feed)) as runner:
        results = runner.infer(feed, check_inputs=False)
    torch.save({name: torch.as_tensor(value).cpu() for name, value in results.items()}, folder / _RESULTS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
