"""Other results than a module: a whole method as ONNX, or as the bytes of one engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from bridge import backends
from bridge import torch_private as tp
from bridge.backends.base import Backend
from bridge.backends.weights import Array, detach_weights, with_weights
from bridge.compile import Partition, divide_and_build
from bridge.errors import BridgeError, ExportError
from bridge.export.export import ExporterCrash
from bridge.export.whole import whole_function
from bridge.frontend.alias import Memory
from bridge.frontend.load import Loaded, load
from bridge.frontend.provenance import METADATA, TAG
from bridge.leaves import result_names
from bridge.partition.roles import Role
from bridge.runtime.plan import Plan
from bridge.runtime.session_tensorrt import ENGINE
from bridge.spec import CompileSpec
from bridge.spec.settings import flag
from bridge.translate import Translation, Translator
from bridge.unsupported import error_of, unsupported

if TYPE_CHECKING:
    import onnx

_FREE = {
    "prim::GetAttr", "prim::TupleConstruct", "prim::ListConstruct", "prim::DictConstruct", "prim::TupleUnpack",
    "prim::ListUnpack", "prim::TupleIndex", "aten::__getitem__", "prim::RaiseException", "prim::Constant",
    "prim::unchecked_cast",
}  # fmt: skip
_WHOLE = "bridge.compile(module, spec) leaves it to PyTorch and builds engines for the rest"


def to_onnx(
    module: Any, spec: Any = None, *, method_name: str = "forward", rewrite: bool = True, **settings: Any
) -> onnx.ModelProto:
    """A whole method as ONNX, control flow and all.

    Every node's name begins with the module path and ends in the identity of the TorchScript node that it came from;
    ``metadata_props["bridge.provenance"]`` has that node's operator, module and source line.

    Args:
        module, spec, settings: as for `bridge.compile`; nested inputs and results become inputs and outputs in a row.
        method_name: the method to export.
        rewrite: rewritten for the spec's target and in its precision; else as exported, where operators that
            ONNX cannot express are nodes of the domains ``torch.*`` with their schema and arguments.

    Raises:
        SpecError: a setting or an input cannot be meant.
        UnsupportedOperatorError: with ``rewrite``, an operator has no way into ONNX.
        ExportError: an argument or a result is no tensor, or the exporter failed.
    """
    loaded = load(module, CompileSpec.of(spec, settings), method_name, for_calls=False)
    translation = translate_whole(loaded, rewrite=flag("rewrite", rewrite))
    if translation.refused:
        raise error_of(
            unsupported(loaded.program, translation.refused),
            "rewrite=False gives the model with torch.* nodes in their places",
        )
    return _model(translation, loaded)


def translate_whole(loaded: Loaded, *, rewrite: bool) -> Translation:
    """A whole method's graph with its inputs: as exported, or rewritten and typed, where some nodes may be refused.

    Raises:
        ExportError: an argument or a result is no tensor, or the exporter failed.
    """
    memory = Memory(loaded.program.graph)
    translator = Translator(loaded.program, loaded.spec, loaded.leaves, None, memory.paths)
    function, results = whole_function(loaded.program, memory.paths, translator.leaf_of)
    try:
        return translator.translate_whole(function, results, rewrite=rewrite)
    except ExporterCrash as crash:
        where = str(loaded.program.provenance[crash.identity]) if crash.identity is not None else None
        raise ExportError("torch.onnx failed on this graph", where=where, why=str(crash)) from crash


def _model(translation: Translation, loaded: Loaded) -> onnx.ModelProto:
    model = with_weights(*detached(translation))
    entries = {entry.key: entry for entry in model.metadata_props}
    (entries.get(METADATA) or model.metadata_props.add(key=METADATA)).value = loaded.program.provenance.to_json()
    return model


def detached(translation: Translation) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A translation's model, which declares the domain of every node, and its weights beside it."""
    assert translation.graph is not None
    model, weights = detach_weights(translation.graph)
    declared = {entry.domain for entry in model.opset_import}
    for domain in sorted(_domains(model.graph) - declared):
        model.opset_import.add(domain=domain, version=1)
    return model, weights


def _domains(graph: onnx.GraphProto) -> set[str]:
    found = {node.domain for node in graph.node}
    for node in graph.node:
        for attribute in node.attribute:
            found |= _domains(attribute.g)
    return found


def convert_method_to_trt_engine(module: Any, method_name: str = "forward", spec: Any = None, **settings: Any) -> bytes:
    """The bytes of one TensorRT engine for a whole method, as TensorRT's own runtime takes them.

    Args:
        module: as for `bridge.compile`.
        method_name: the method to build.
        spec, settings: as for `bridge.compile`; ``backend="auto"`` is TensorRT where it and a GPU are there, else
            TensorRT-RTX.

    Raises:
        SpecError: a setting or an input cannot be meant; ONNX Runtime is asked for, which has no engines.
        UnsupportedOperatorError: an operator, or control flow, has no way into the engine.
        BuildError: the backend gave no engine.
    """
    wanted = CompileSpec.of(spec, settings)
    wanted.require_full_compilation = True
    backend = _engine_maker(wanted.backend)
    loaded = load(module, wanted, method_name, for_calls=False)
    partition, calls = divide_and_build(loaded, backend)
    _require_whole(partition, loaded)
    (call,) = calls.values()
    return Plan.from_tensor(call.plan).section(ENGINE).tobytes()


def _engine_maker(name: str) -> Backend:
    if name == "onnxruntime":
        raise BridgeError(
            "ONNX Runtime has no engines of its own", where="backend",
            hint='backend="tensorrt" or "tensorrt_rtx"; bridge.to_onnx gives the model that ONNX Runtime runs',
        )  # fmt: skip
    if name != "auto":
        return backends.select(name)
    if torch.cuda.is_available():
        try:
            return backends.select("tensorrt")
        except BridgeError:
            pass
    return backends.select("tensorrt_rtx")


def _require_whole(partition: Partition, loaded: Loaded) -> None:
    """Raises unless one engine gives every result."""
    program = loaded.program
    reasons = {
        node.i(TAG): partition.refused.get(node.i(TAG), "control flow that TensorRT's parser was not given")
        for node in tp.walk(program.graph)
        if partition.roles.of(node) is Role.TORCH and node.kind() not in _FREE
    }
    left = unsupported(program, reasons, constructs=True)
    if left:
        raise error_of(left, _WHOLE)
    if len(partition.segments) != 1:
        raise BridgeError(f"{_method_of(loaded)} comes to {len(partition.segments)} engines, not one", hint=_WHOLE)
    made = {value.debugName() for value in partition.segments[0].outputs}
    passed = [name for value, name in result_names(program.graph).items() if value not in made]
    if passed:
        raise BridgeError(
            f"no engine gives the result {passed[0]!r}: it is an input, a view of one, or a constant",
            where=_method_of(loaded),
            hint=_WHOLE,
        )


def _method_of(loaded: Loaded) -> str:
    return f"{getattr(loaded.program.module, 'original_name', 'module')}.{loaded.program.method}"
