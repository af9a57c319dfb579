"""ONNX models, run for chosen intermediate values."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from polygraphy.backend.base import BaseRunner
from polygraphy.backend.onnx import ExtractSubgraph, ModifyOutputs
from polygraphy.backend.onnxrt import OnnxrtRunner
from polygraphy.common import TensorMetadata
from polygraphy.datatype import DataType

from bridge.backends.bfloat16 import emulate_bfloat16
from bridge.backends.element_types import element_types
from bridge.backends.ort_substitutes import substitute
from bridge.backends.weights import with_weights
from bridge.compare.arrays import Array
from bridge.compare.exposing import expose
from bridge.compare.halves import WIDE, widen_edges
from bridge.compare.outputs import quiet_polygraphy
from bridge.compare.runners import ReferenceRunner
from bridge.compare.steps import Key, Step, matched
from bridge.errors import BridgeError
from bridge.frontend.provenance import identity_of
from bridge.runtime.session_onnxruntime import session_options
from rewrites.tidying import bodies
from rewrites.torch_domain import PREFIX


class OnnxSide:
    """An ONNX model in ONNX Runtime, without optimisations.

    Nodes for operators that ONNX cannot express are left out: what they make is fed, from the reference.

    Attributes:
        fed: name -> (key, position) of what the left-out nodes make.
        given: the reference's values that it is fed with.
    """

    def __init__(self, label: str, model: onnx.ModelProto, weights: Mapping[str, Array]) -> None:
        self.label, self.weights, self.evaluator = label, weights, "onnxruntime"
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.fed, read = _leave_out(self.model.graph)
        self.inputs = [value.name for value in self.model.graph.input if value.name not in self.fed]
        self.feeds: dict[str, Array] = {}
        self.given: Collection[str] = ()
        self.steps = [onnx_step(node) for node in self.model.graph.node]
        self.deep = list(_onnx_steps(self.model.graph))
        self.results = [*(value.name for value in self.model.graph.output), *read]
        self._there = {output for step in self.steps for output in step.outputs} | set(self.results)

    def exact(self, key: Key) -> Collection[str]:
        """What it is fed with, wherever it is read."""
        return self.given

    def in_reference_evaluator(self) -> OnnxSide:
        """The same graph under ONNX's reference evaluator: half precision is computed in half precision there."""
        other = copy.copy(self)
        other.evaluator = "reference"
        return other

    def by_tensor_name(self) -> None:
        """Matches by the names of tensors, for models that did not come from `bridge`."""
        self.steps = [replace(step, key=step.outputs[0] if step.outputs else None) for step in self.steps]
        self.deep = self.steps

    def by_values(self, keys: Mapping[str, Key]) -> None:
        """Matches those of its nodes that make these values by their keys."""
        self.steps = [
            replace(step, key=next((keys[o] for o in step.outputs if o in keys), None)) for step in self.steps
        ]
        self.deep = self.steps

    def match(self, keys: Mapping[int, int]) -> None:
        """Matches its nodes by other keys; those without one are left out."""
        self.steps, self.deep = matched(self.steps, keys), matched(self.deep, keys)

    def values(self, names: Sequence[str]) -> dict[str, Array]:
        """These values of one run."""
        given = {value.name for value in self.model.graph.input}
        wanted = [name for name in dict.fromkeys(names) if name not in given]
        with quiet_polygraphy():
            opened, outside = expose(self.model, wanted)
            outputs = [outside.get(name, name) for name in wanted if name in self._there or name in outside]
            if not outputs:
                return {}
            marked = ModifyOutputs(opened, outputs=outputs, copy=True)()
            with self._runner(marked) as runner:
                found = runner.infer(self._feeds(marked), check_inputs=False)
        inside = {other: name for name, other in outside.items()}
        plain = {name.removesuffix(WIDE): array for name, array in found.items()}
        return {inside.get(name, name): array for name, array in plain.items()}

    def cut(self, inside: Sequence[Step], result: str) -> tuple[onnx.ModelProto, dict[str, Array], str]:
        """These nodes by themselves as a model that ONNX Runtime runs, the values that go into it, and its output."""
        made = {output for step in inside for output in step.outputs}
        variables = {output for step in self.steps for output in step.outputs} | set(self.inputs)
        read = dict.fromkeys(name for step in inside for name in step.inputs)
        given = [name for name in read if name in variables and name not in made]
        values, types = {**self.feeds, **self.values([*given, result])}, element_types(self.model)
        edges = [metadata({name: values[name] for name in names}, types) for names in (given, [result])]
        whole = onnx.ModelProto()
        whole.CopyFrom(self.model)
        with quiet_polygraphy():
            part = ExtractSubgraph(with_weights(whole, dict(self.weights)), *edges)()
        substitute(part)
        emulate_bfloat16(part)
        widen_edges(part)
        names = [value.name for value in part.graph.input]
        return part, {name: values[name.removesuffix(WIDE)] for name in names}, part.graph.output[0].name

    def _runner(self, marked: onnx.ModelProto) -> BaseRunner:
        if self.evaluator == "reference":
            return ReferenceRunner(with_weights(marked, dict(self.weights)), self.label)
        substitute(marked)
        emulate_bfloat16(marked)
        widen_edges(marked)
        return OnnxrtRunner(lambda: self._session(marked))

    def _feeds(self, model: onnx.ModelProto) -> dict[str, Array]:
        """In the dtypes that the graph declares."""
        feeds = {}
        for value in model.graph.input:
            feed, kind = self.feeds[value.name.removesuffix(WIDE)], value.type.tensor_type.elem_type
            feeds[value.name] = feed.astype(onnx.helper.tensor_dtype_to_np_dtype(kind), copy=False) if kind else feed
        return feeds

    def _session(self, model: onnx.ModelProto) -> ort.InferenceSession:
        options = session_options()
        read = {*_read_in(model.graph)}  # ONNX Runtime knows no initializers that nothing reads
        outside = [
            t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL and t.name in read
        ]
        values = [_ort_value(self.weights[tensor.name], tensor.data_type) for tensor in outside]
        options.add_external_initializers([tensor.name for tensor in outside], values)
        try:
            return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this
            raise BridgeError(f"ONNX Runtime does not take {self.label}", why=str(error)) from error


def copied(graph: gs.Graph) -> gs.Graph:
    """A copy that shares the weights. graphsurgeon's own pins the types of constants, so that they could not change."""
    copy_ = graph.copy()
    for scope in (copy_, *copy_.subgraphs(recursive=True)):
        for tensor in scope.tensors().values():
            if isinstance(tensor, gs.Constant) and tensor.export_dtype == tensor.dtype:
                tensor.export_dtype = None
    return copy_


def metadata(arrays: Mapping[str, Array], types: Mapping[str, int]) -> TensorMetadata:
    """Names, dtypes and shapes in Polygraphy's terms; BF16, whose arrays are FP32, is told by the ONNX ``types``."""
    found = TensorMetadata()
    for name, array in arrays.items():
        is_narrow = types.get(name) == onnx.TensorProto.BFLOAT16
        found.add(name, DataType.BFLOAT16 if is_narrow else array.dtype, array.shape)
    return found


def _ort_value(array: Array, kind: int) -> ort.OrtValue:
    carrier = np.ascontiguousarray(array).view(np.dtype(f"u{array.dtype.itemsize}"))
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(carrier, kind)


def _leave_out(graph: onnx.GraphProto) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """Takes nodes of the domains ``torch.*``, and those with such nodes in their bodies, out of the outermost block.

    What they make becomes inputs. Gives what they make, and what they read.
    """
    types = {value.name: value.type for value in (*graph.value_info, *graph.output)}
    left_out = [node for node in graph.node if _is_unknown(node)]
    for node in left_out:
        graph.node.remove(node)
    made = {name: (identity_of(node.name), i) for node in left_out for i, name in enumerate(node.output)}
    for value in [value for value in graph.output if value.name in made]:
        graph.output.remove(value)
    still_read = set(_read_in(graph))
    fed = {name: (key, i) for name, (key, i) in made.items() if key is not None and name in still_read}
    for name in fed:
        graph.input.add(name=name).type.CopyFrom(types.get(name, onnx.TypeProto()))
    there = {name for node in graph.node if node.op_type != "Constant" for name in node.output}
    return fed, [name for node in left_out for name in onnx_step(node).inputs if name in there]


def _is_unknown(node: onnx.NodeProto) -> bool:
    """Whether a node is one that ONNX cannot express, or has one in its bodies."""
    return node.domain.startswith(PREFIX) or any(_is_unknown(inner) for body in bodies(node) for inner in body.node)


def _onnx_steps(graph: onnx.GraphProto) -> Iterator[Step]:
    """The nodes of a graph, each behind those of its bodies, and what loops carry into them."""
    for node in graph.node:
        for body in bodies(node):
            if node.op_type == "Loop":
                carried = zip(node.input[2:], body.input[2:], strict=False)
                yield from (Step(None, "", (one,), (other.name,)) for one, other in carried)
            yield from _onnx_steps(body)
        yield onnx_step(node)


def onnx_step(node: onnx.NodeProto) -> Step:
    """A node of a graph's outermost block; one that stands for several, ``a+b``, gives the result of the last."""
    inputs = [*node.input, *(name for body in bodies(node) for name in _read_in(body))]
    return Step(
        identity_of(node.name.rpartition("+")[2]),
        node.name,
        tuple(filter(None, inputs)),
        tuple(filter(None, node.output)),
    )


def _read_in(graph: onnx.GraphProto) -> list[str]:
    read = [name for node in graph.node for name in node.input] + [value.name for value in graph.output]
    return read + [name for node in graph.node for body in bodies(node) for name in _read_in(body)]
