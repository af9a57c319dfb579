"""A model for each example: the rule's own pattern, or the operator it matches, over the example's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs

from rewrites import torch_domain
from rewrites.builder import Builder
from rewrites.errors import RewriteError
from rewrites.example import SIZES, Example, TensorSpec
from rewrites.graph import Editor, Value
from rewrites.infer import dim_of, numpy_type
from rewrites.lowering import Lowering
from rewrites.protos import model_proto
from rewrites.rule import ClassRule, Rule
from rewrites.schemas import input_names

OPSET = 20


@dataclass
class Model:
    """An example as a model.

    Attributes:
        proto: the model.
        specs: its inputs.
        sizes: the sizes of its dynamic axes.
        reference: computes the right outputs where ONNX has no meaning for the model.
    """

    proto: onnx.ModelProto
    specs: dict[str, TensorSpec]
    sizes: dict[str, int]
    reference: Callable[[dict[str, Any]], list[Any]] | None = None

    def sample(self, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
        """Random inputs."""
        return {name: spec.sample(rng, self.sizes) for name, spec in self.specs.items()}


def model_of(rule: Rule, example: Example) -> Model:
    """The model of an example.

    Raises:
        RewriteError: when the example does not fit the rule.
    """
    if "text" in example.arguments:
        return _from_text(example)
    if isinstance(rule, Lowering) or (
        isinstance(rule, ClassRule) and any(d.startswith("torch.") for d, _ in rule.matches)
    ):
        return _from_torch(rule, example)
    if isinstance(rule, ClassRule):
        return _from_onnx(rule, example)
    raise RewriteError("examples of a pass are written with text=", rule=rule.name)


def _from_text(example: Example) -> Model:
    text = str(example.arguments["text"])
    if text.lstrip().startswith("<"):
        proto = onnx.parser.parse_model(text)
    else:
        imports = [onnx.helper.make_opsetid("", example.opset or OPSET)]
        proto = onnx.helper.make_model(onnx.parser.parse_graph(text), opset_imports=imports, ir_version=10)
    specs = {k: v for k, v in example.arguments.items() if isinstance(v, TensorSpec)}
    for info in proto.graph.input:
        dims = tuple(dim_of(d) or "?" for d in info.type.tensor_type.shape.dim)
        dtype = numpy_type(info.type.tensor_type.elem_type)
        specs.setdefault(info.name, TensorSpec(dims, str(dtype)))
    names = list(dict.fromkeys(d for s in specs.values() for d in s.shape if isinstance(d, str)))
    sizes = {n: example.sizes.get(n, SIZES[i % len(SIZES)]) for i, n in enumerate(names)}
    return Model(proto, specs, sizes)


@dataclass
class _Drawing:
    """A graph under construction."""

    opset: int
    specs: dict[str, TensorSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.graph = gs.Graph(opset=self.opset, name="example", ir_version=10)
        self.editor = Editor(self.graph)
        self.op = Builder(self.editor, self.graph, "example")

    def value(self, name: str, given: Any) -> Any:
        """A shape or spec as a graph input, a list of them as such, an array as a constant; the rest as it is."""
        tensors = (
            [isinstance(g, (tuple, TensorSpec)) for g in given if g is not None] if isinstance(given, list) else []
        )
        if tensors and all(tensors):
            return [self.value(f"{name}{i}", g) for i, g in enumerate(given)]
        if isinstance(given, np.ndarray):
            return self.op.constant(given)
        if not isinstance(given, (tuple, TensorSpec)):
            return given
        spec = given if isinstance(given, TensorSpec) else TensorSpec(given)
        self.specs[name] = spec
        dtype = numpy_type(16) if spec.dtype == "bfloat16" else np.dtype(spec.dtype)
        variable = gs.Variable(name, dtype, list(spec.shape))
        self.graph.inputs.append(variable)
        return Value(variable, self.editor)

    def finish(self, outputs: list[Value], example: Example) -> Model:
        self.graph.outputs = [v.tensor for v in outputs]
        proto = model_proto(self.editor.finish())
        return Model(proto, self.specs, example.size_of())


def _from_onnx(rule: ClassRule, example: Example) -> Model:
    drawing = _Drawing(example.opset or OPSET)
    values = {name: drawing.value(name, given) for name, given in example.arguments.items()}
    made = (
        _draw_pattern(rule, example, values, drawing)
        if rule.patterns
        else _draw_operator(rule, example, values, drawing)
    )
    return drawing.finish(list(made) if isinstance(made, (tuple, list)) else [made], example)


def _draw_pattern(rule: ClassRule, example: Example, values: dict[str, Any], drawing: _Drawing) -> Any:
    function = rule.patterns[example.pattern] if example.pattern else next(iter(rule.patterns.values()))
    parameters = inspect.signature(function).parameters.values()
    star = [values.pop(p.name) for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL]
    try:
        inspect.signature(function).bind(drawing.op, *(star[0] if star else ()), **values)
    except TypeError as error:
        raise RewriteError(f"an example does not fit the pattern: {error}", rule=rule.name) from error
    return function(drawing.op, *(star[0] if star else ()), **values)


def _draw_operator(rule: ClassRule, example: Example, values: dict[str, Any], drawing: _Drawing) -> Any:
    domain, operator = rule.matches[0]
    operator = values.pop("op_type", operator)
    inputs: list[Any] = []
    for name, variadic in input_names(operator, domain, drawing.opset):
        given = values.pop(name, None)
        inputs += given if variadic and isinstance(given, list) else [given]
    return drawing.op.call(operator, *inputs, _domain=domain, _outputs=example.outputs, **values)


def _from_torch(rule: Rule, example: Example) -> Model:
    drawing = _Drawing(example.opset or OPSET)
    overload = _overload(rule, example)
    schema = torch_domain.parse_schema(str(overload._schema))
    named = dict(zip(_parameters(rule), [a.name for a in schema.arguments], strict=False))
    given = {
        named.get(n, n) if n not in {a.name for a in schema.arguments} else n: v
        for n, v in example.arguments.items()
        if n != "op_type"
    }
    values = {name: drawing.value(name, value) for name, value in given.items()}
    reference = _Reference(overload, given, example.outputs)
    model = Model(onnx.ModelProto(), drawing.specs, example.size_of())
    outputs = []
    every = _Reference(overload, given, None)
    for i, array in enumerate(every(model.sample(np.random.default_rng(0)))):
        outputs.append(gs.Variable(f"output{i}", array.dtype, [f"out{i}_{axis}" for axis in range(array.ndim)]))
    arguments = {
        n: v.tensor
        if isinstance(v, Value)
        else [i.tensor if isinstance(i, Value) else i for i in v]
        if isinstance(v, list)
        else v
        for n, v in values.items()
    }
    node = torch_domain.encode(str(overload._schema), arguments, outputs, name=f"{schema.namespace}::{schema.name}#1")
    drawing.editor.insert(node, drawing.graph)
    model.proto = drawing.finish([Value(t, drawing.editor) for t in outputs[: example.outputs]], example).proto
    model.reference = reference
    return model


def _parameters(rule: Rule) -> list[str]:
    return list(inspect.signature(rule.function).parameters) if isinstance(rule, Lowering) else []


@dataclass
class _Reference:
    """PyTorch's own result, from the model's inputs."""

    overload: Any
    given: dict[str, Any]
    count: int | None

    def __call__(self, inputs: dict[str, Any]) -> list[Any]:
        import torch

        def bind(name: str, value: Any) -> Any:
            if isinstance(value, list):
                return [bind(f"{name}{i}", v) for i, v in enumerate(value)]
            array = inputs.get(name, value if isinstance(value, np.ndarray) else None)
            return value if array is None else torch.from_numpy(np.array(array))

        made = self.overload(**{n: bind(n, v) for n, v in self.given.items()})
        return [t.numpy() for t in (made if isinstance(made, (tuple, list)) else (made,))][: self.count]


def _overload(rule: Rule, example: Example) -> Any:
    """The overload that takes the example's arguments."""
    import torch

    matched = rule.matches[0] if isinstance(rule, ClassRule) else next(iter(rule.keys()))  # type: ignore[attr-defined]
    operator = str(example.arguments.get("op_type") or "::".join(matched).removeprefix(torch_domain.PREFIX))
    namespace, _, name = operator.partition("::")
    base, _, wanted = name.partition(".")
    packet = getattr(getattr(torch.ops, namespace), base)
    for label in [wanted] if wanted else packet.overloads():
        overload = getattr(packet, label)
        if all(_accepts(a, example.arguments.get(a.name)) for a in overload._schema.arguments):
            return overload
    raise RewriteError("no overload takes an example's arguments", rule=rule.name, hint=str(packet.overloads()))


def _accepts(argument: Any, given: Any) -> bool:
    """Whether a schema argument may be what an example gives; tensors are told from numbers."""
    if given is None:
        return bool(argument.has_default_value()) or "Optional" in str(argument.type)
    kind = str(argument.type)
    is_tensor = isinstance(given, (tuple, TensorSpec, np.ndarray))
    several = isinstance(given, list)
    return ("Tensor" in kind) == is_tensor if not several else "List" in kind
