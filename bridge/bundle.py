"""A support bundle: what others need to see what went wrong with a module, in one archive, without weights."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import platform
import re
import site
import sys
import sysconfig
import tempfile
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bridge import logging
from bridge.compare import compare
from bridge.compare.inputs import InputSet, input_sets, tensors_in
from bridge.compare.results import versions
from bridge.compare.runners import Contender
from bridge.compile import compile
from bridge.debug.steps import summary
from bridge.errors import BridgeError, SpecError
from bridge.interface import to_onnx
from bridge.recording import settings_of
from bridge.report import amount
from bridge.report.writing import replacing
from bridge.runtime.calls import engine_calls
from bridge.runtime.inspection import inspect
from bridge.runtime.record import records_of
from bridge.spec import CompileSpec
from bridge.spec.settings import flag
from bridge.support import dryrun
from rewrites.tidying import bodies

if TYPE_CHECKING:
    import onnx

FORMAT = 1
_MANIFEST = "manifest.json"
_LOG_LINES = 20_000
_PATH = re.compile(r"(?<![\w.:/])(?:[A-Za-z]:)?(?:[/\\][\w.@+~-]*[\w@+~-])+")
_NUMBERS = re.compile(r"value=[^\[\]<>]*\[ (\w+Type\{[^}]*\}) \]")
"""A tensor in the text of a TorchScript graph."""


@dataclass(frozen=True)
class Bundle:
    """A support bundle; `str()` lists what is in it.

    Attributes:
        path: the archive.
        contents: name -> what it is, in a few words.
    """

    path: Path
    contents: dict[str, str]

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Reads an archive's list of contents.

        Raises:
            BridgeError: it is no support bundle, or one of a newer version.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                manifest = json.loads(archive.read(_MANIFEST))
        except (OSError, KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise BridgeError(f"{path} is no support bundle", why=str(error)) from error
        if manifest.get("format") != FORMAT:
            raise BridgeError(f"{path} is a bundle of format {manifest.get('format')}", hint="update bridge")
        return cls(Path(path), manifest["contents"])

    def read(self, name: str) -> bytes:
        """A member's bytes.

        Raises:
            BridgeError: there is none of this name, or it is damaged.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(name)
        except (KeyError, zipfile.BadZipFile) as error:
            listed = ", ".join(self.contents)
            raise BridgeError(f"{self.path}: {name!r} cannot be read", why=str(error), hint=listed) from error

    def text(self, name: str) -> str:
        """A member as text."""
        return self.read(name).decode()

    def json(self, name: str) -> Any:
        """A member as data."""
        return json.loads(self.read(name))

    def onnx(self, name: str) -> onnx.ModelProto:
        """A member as an ONNX model; weights that were left out are marked as external."""
        import onnx

        return onnx.load_model(io.BytesIO(self.read(name)), load_external_data=False)

    def __str__(self) -> str:
        with zipfile.ZipFile(self.path) as archive:
            sizes = {item.filename: item.file_size for item in archive.infolist()}
        lines = [f"{self.path}: {amount(self.path.stat().st_size)}"]
        width = max(map(len, self.contents), default=0)
        lines += [f"  {name:<{width}}  {amount(sizes[name]):>10}  {told}" for name, told in self.contents.items()]
        return "\n".join(lines)


def report_bundle(
    module: Any,
    path: str | Path,
    spec: Any = None,
    *,
    compiled: Any = None,
    build: bool = False,
    inputs: Any = None,
    keep_weights: bool = False,
    keep_inputs: bool = False,
    **settings: Any,
) -> Bundle:
    """Writes one archive that tells others what they need to see what went wrong.

    In it are versions, the GPU, the settings, segments and why operators stayed in PyTorch, the ONNX graphs as exported
    and as rewritten, rules that fired, engines and their layers, how the outputs compare, what was logged meanwhile,
    and what failed. Not in it are weights and inputs (unless asked for), environment variables, and where files are:
    paths below the working directory and installed packages become relative, of others only the last part is kept.

    Args:
        module: as for `bridge.compile`, or a compiled module, whose own record is then told.
        path: where the archive goes (.zip); nothing is written there until all of it is.
        spec, settings: as for `bridge.compile`.
        compiled: what became of ``module``: its engines are told too, and compared with it if there are inputs.
        build: whether to compile the module now, to tell of its engines, or of what fails.
        inputs: the arguments of one call, as for `bridge.compare`; also what is compiled for where the spec has none.
        keep_weights: whether the ONNX graphs keep their weights.
        keep_inputs: whether the inputs themselves go into the archive.

    Raises:
        SpecError: an argument cannot be meant. What goes wrong with the module is told in the archive instead.
    """
    if not isinstance(path, str | Path):
        raise SpecError(f"path: expected a file's name, got {type(path).__name__}", hint='"report.zip"')
    if isinstance(module, str | Path) or isinstance(compiled, str | Path):
        raise SpecError("module: a path", hint="load it: torch.jit.load(path); or: bridge report path")
    for field, thing in (("module", module), ("compiled", compiled)):
        if not isinstance(thing, torch.nn.Module | torch.export.ExportedProgram | None):
            raise SpecError(f"{field}: expected a module, got {type(thing).__name__}")
    for field, value in (("build", build), ("keep_weights", keep_weights), ("keep_inputs", keep_inputs)):
        flag(field, value)
    if module is None:
        raise SpecError("module: expected a module, got None")
    sets = input_sets(inputs) if inputs is not None else []
    if keep_inputs and not sets:
        raise SpecError("keep_inputs: there are none", hint="give inputs=(tensor, ...)")
    with _Writer(Path(path)) as writer, logging.recorded() as lines:
        writer.add("versions.json", "Python, packages, system, GPU", lambda: _json(environment()))
        if isinstance(module, torch.nn.Module) and engine_calls(module):
            _add_compiled(writer, module)
        else:
            wanted = _wanted(spec, settings, sets)
            _add_original(writer, module, wanted, keep_weights)
            if build and compiled is None:
                compiled = writer.attempt("compile", lambda: compile(module, wanted))
        if compiled is not None:
            _add_compiled(writer, compiled)
        if sets:
            _add_calls(writer, module, compiled, sets)
        if keep_inputs:
            writer.add("inputs.pt", "the inputs, for torch.load", lambda: _saved(sets))
        writer.add("log.txt", "what was logged while this was made", lambda: "\n".join(lines[-_LOG_LINES:]))
    return Bundle.open(path)


def environment() -> dict[str, Any]:
    """Versions of packages, the system and the GPUs; nothing that names the machine or its user."""
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found = torch.cuda.get_device_properties(index)
        told = {"name": found.name, "capability": f"{found.major}.{found.minor}", "memory": found.total_memory}
        gpus.append(told)
    system = {"system": platform.system(), "release": platform.release(), "machine": platform.machine()}
    cuda = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version() if gpus else None}
    return {"packages": versions(), "system": system, "cpus": os.cpu_count(), "gpus": gpus, **cuda}


def _wanted(spec: Any, settings: dict[str, Any], sets: list[InputSet]) -> CompileSpec:
    wanted = CompileSpec.of(spec, settings)
    if wanted.inputs is None and not wanted.kwarg_inputs and sets:
        wanted.inputs, wanted.kwarg_inputs = list(sets[0].args), dict(sets[0].kwargs)
    return wanted


def _add_original(writer: _Writer, module: Any, wanted: CompileSpec, weights: bool) -> None:
    writer.add("spec.json", "the settings", lambda: _json(settings_of(wanted)))
    writer.add("graph.txt", "the TorchScript graph, or the module", lambda: _graph_of(module))
    found = writer.attempt("support.json", lambda: dryrun(module, wanted))
    if found is not None:
        writer.add("support.json", "segments, rewrite rules, operators in PyTorch", lambda: _json(found.to_dict()))
        writer.add("support.txt", "the same, to read", lambda: str(found))
    for name, rewrite in (("exported", False), ("rewritten", True)):
        model = writer.attempt(f"{name}.onnx", lambda: to_onnx(module, wanted, rewrite=rewrite))  # noqa: B023
        if model is not None:
            told = f"the ONNX graph, {name}" + ("" if weights else ", without weights")
            writer.add(f"{name}.onnx", told, lambda: _model(model, weights))  # noqa: B023


def _graph_of(module: Any) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return _NUMBERS.sub(r"value=<\1>", str(module.inlined_graph))
    return str(module.graph_module.code if isinstance(module, torch.export.ExportedProgram) else module)


def _add_compiled(writer: _Writer, module: torch.nn.Module) -> None:
    records = [asdict(record) for record in records_of(module)]
    writer.add("record.json", "how it was compiled", lambda: _json(records))
    writer.add("engines.json", "engines and their layers", lambda: _json(inspect(module).to_dict()))
    writer.add("engines.txt", "the same, to read", lambda: str(inspect(module)))


def _add_calls(writer: _Writer, module: Any, compiled: Any, sets: list[InputSet]) -> None:
    """How the outputs compare; without a second module, what they are."""
    if compiled is None:
        writer.add("outputs.txt", "dtype, shape and range of the outputs", lambda: _outputs(module, sets[0]))
        return
    report = writer.attempt("comparison.json", lambda: compare(module, compiled, [_call(one, module) for one in sets]))
    if report is not None:
        told = "the outputs beside those of the original"
        writer.add("comparison.json", told, lambda: _json(report.to_dict()))
        writer.add("comparison.txt", "the same, to read", lambda: str(report))


def _call(inputs: InputSet, module: Any) -> dict[str, Any]:
    names = Contender(module, "module").input_names
    return {**dict(zip(names, inputs.args, strict=False)), **inputs.kwargs}


def _outputs(module: Any, inputs: InputSet) -> str:
    callable_ = module.module() if isinstance(module, torch.export.ExportedProgram) else module
    with torch.no_grad():
        found = tensors_in(callable_(*inputs.args, **inputs.kwargs))
    return "\n".join(f"{name}: {summary(value)}" for name, value in found.items())


def _saved(sets: list[InputSet]) -> bytes:
    file = io.BytesIO()
    calls = [one.kwargs or one.args for one in sets]
    torch.save(calls[0] if len(calls) == 1 else calls, file)
    return file.getvalue()


def _json(data: Any) -> str:
    return json.dumps(data, indent=1, default=str)


def _model(model: onnx.ModelProto, weights: bool) -> bytes:
    """The model, with weights marked as left out, and without what exporters note of the user's files."""
    import onnx

    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    kept.doc_string = kept.graph.doc_string = ""
    for graph in _graphs(kept.graph):
        for node in graph.node:
            node.doc_string = ""
            node.ClearField("metadata_props")
            for attribute in node.attribute:
                if not weights and attribute.HasField("t"):
                    _leave_out(attribute.t)
        for value in (*graph.value_info, *graph.input, *graph.output):
            value.doc_string = ""
            value.ClearField("metadata_props")
        for tensor in () if weights else graph.initializer:
            _leave_out(tensor)
        if not weights:
            del graph.sparse_initializer[:]
    return bytes(kept.SerializeToString())


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from _graphs(body)


def _leave_out(tensor: onnx.TensorProto) -> None:
    """Takes the numbers out of a tensor; single floating ones and a few whole ones say what operators do: they stay."""
    import onnx

    floating = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    if math.prod(tensor.dims) <= 1 or (tensor.data_type not in floating and math.prod(tensor.dims) <= 64):
        return
    for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(field)
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="left-out")


class _Writer:
    """Writes members to a file of another name, which takes its place when all went well."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.contents: dict[str, str] = {}
        self._failures: list[str] = []
        self._known = _known_folders()

    def __enter__(self) -> _Writer:
        self._stack = contextlib.ExitStack()
        partial = self._stack.enter_context(replacing(self.path))
        self._archive = zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED)
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                if self._failures:
                    self._write("errors.txt", "what failed", self.scrubbed("\n\n".join(self._failures)).encode())
                self._archive.writestr(_MANIFEST, _json({"format": FORMAT, "contents": self.contents}))
        finally:
            self._archive.close()
            self._stack.__exit__(*error)

    def add(self, name: str, told: str, content: Callable[[], str | bytes]) -> None:
        """Adds a member; where it cannot be had, why."""
        made = self.attempt(name, content)
        if made is not None:
            self._write(name, told, self.scrubbed(made).encode() if isinstance(made, str) else made)

    def attempt(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gives; None where it fails, which is told in the archive."""
        try:
            return make()
        except Exception as error:  # the bundle is for what goes wrong
            self._failures.append(f"{name}\n{''.join(traceback.format_exception(error)).strip()}")
            return None

    def scrubbed(self, text: str) -> str:
        """The text without paths: of those that are on this machine only the last part stays."""
        for folder, name in self._known:
            text = text.replace(folder, name)
        return _PATH.sub(lambda found: _shortened(found[0]), text)

    def _write(self, name: str, told: str, content: bytes) -> None:
        self._archive.writestr(name, content)
        self.contents[name] = told


def _known_folders() -> list[tuple[str, str]]:
    """Folders whose names are replaced, the longest first."""
    purelib = sysconfig.get_paths()["purelib"]
    found = {purelib: "<packages>", str(Path.cwd()): ".", sys.prefix: "<python>"}
    found |= dict.fromkeys([sys.base_prefix, sysconfig.get_paths()["stdlib"]], "<python>")
    with contextlib.suppress(AttributeError):
        found |= dict.fromkeys(site.getsitepackages(), "<packages>")
    found |= {str(Path(tempfile.gettempdir())): "<temporary>", str(Path(__file__).parent): "<bridge>"}
    found |= {str(Path(folder).resolve()): name for folder, name in found.items()}
    return sorted(((k, v) for k, v in found.items() if len(k) > 1), key=lambda item: -len(item[0]))


def _shortened(path: str) -> str:
    """Its last part, if the path leads somewhere on this machine: names in graphs may look like paths too."""
    parts = path.replace("\\", "/").split("/")
    first = f"{parts[0]}/{parts[1]}" if len(parts) > 1 else ""
    with contextlib.suppress(OSError):
        if len(parts) > 2 and parts[1] and Path(first).exists():
            return f".../{parts[-1]}"
    return path
