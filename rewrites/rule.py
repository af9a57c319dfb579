"""Rules: `@rule` over a class of plain functions, `@graph_pass` over one function, `@plugin` for TensorRT plugins."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_graphsurgeon as gs

from rewrites import torch_domain
from rewrites.builder import Builder
from rewrites.errors import RewriteError
from rewrites.example import Example
from rewrites.graph import Editor, Node, Value
from rewrites.pattern import Match, Pattern
from rewrites.schemas import added_later, attribute_defaults, input_names

if TYPE_CHECKING:
    from rewrites.passes import PassGraph

EVERYWHERE: Mapping[str, str] = {"tensorrt": "all versions"}


class Rule:
    """What every kind of rule has. Users make rules with the decorators, not with this class.

    Attributes:
        name: unique, as "family/what-it-does".
        owner: where it was defined, "module:name".
        needed_by: target -> version condition; the engine leaves a rule out where the target does not need it.
        opsets: the first and the last opset it works on.
        priority: rules with a smaller one are tried first; among equals, the order in the rule set decides.
        forgiving: whether what it raises is a refusal with that reason, instead of the end of the rewriting.
    """

    forgiving = False

    def __init__(
        self,
        name: str,
        source: Any,
        *,
        needed_by: Mapping[str, str] | None = None,
        examples: Sequence[Example] = (),
        refuses: Sequence[Example] = (),
        opsets: tuple[int, int] = (1, 10**6),
        priority: int = 0,
    ) -> None:
        self.name, self.owner = name, f"{source.__module__}:{source.__qualname__}"
        self.doc = inspect.getdoc(source) or ""
        self.needed_by: Mapping[str, str] = EVERYWHERE if needed_by is None else needed_by
        self.examples, self.refuses = tuple(examples), tuple(refuses)
        self.opsets, self.priority = opsets, priority
        self.module = source.__module__

    @property
    def short_name(self) -> str:
        """The name's last part, which the names of new nodes carry."""
        return self.name.rsplit("/", 1)[-1].rsplit("::", 1)[-1]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class NodeRule(Rule):
    """A rule that the engine tries at single nodes."""

    def keys(self) -> Iterable[tuple[str, str]]:
        """(domain, operator) of the nodes to try; an operator of a torch domain may leave its overload out."""
        raise NotImplementedError

    makers: frozenset[str] | None = None
    """Operators of which one must make an input of the node; None when any may. Spares most nodes the attempt."""

    def match(self, editor: Editor, node: gs.Node) -> Match | None:
        """The match at this node, or None."""
        raise NotImplementedError

    def check(self, match: Match) -> None:
        """Refuse the match by `require`, or let it pass."""

    def rewrite(self, op: Builder, match: Match) -> Any:
        """Build the replacement; the values that take the place of `match.outputs`."""
        raise NotImplementedError


class ClassRule(NodeRule):
    """A rule written as a class with `pattern` functions, or with `matches=`, and `check` and `rewrite`."""

    def __init__(self, name: str, source: type, *, matches: str | Sequence[str] = (), **options: Any) -> None:
        super().__init__(name, source, **options)
        functions = {k: v for k, v in vars(source).items() if inspect.isfunction(v)}
        if "rewrite" not in functions:
            raise RewriteError("a rule needs a function `rewrite(op, ...)`", rule=name)
        self.patterns = {k: f for k, f in functions.items() if k.startswith("pattern")}
        listed = [matches] if isinstance(matches, str) else matches
        if not isinstance(listed, Sequence) or not all(isinstance(one, str) for one in listed):
            raise RewriteError(f"matches: expected an operator or several, got {matches!r}", rule=name)
        self.matches = tuple(_split(m) for m in listed)
        if bool(self.patterns) == bool(self.matches):
            raise RewriteError("a rule has either `pattern` functions or matches=", rule=name)
        self._compiled = [Pattern(f) for f in self.patterns.values()]
        makers = [m for p in self._compiled if (m := p.makers()) is not None]
        if self._compiled and len(makers) == len(self._compiled):
            self.makers = frozenset().union(*makers)
        self._applies, self._check, self._rewrite = (
            functions.get("applies"),
            functions.get("check"),
            functions["rewrite"],
        )
        named = (functions.get(name) for name in ("applies", "check", "rewrite", "inputs", "fields"))
        given = [inspect.signature(f).parameters for f in named if f]
        self._wanted = {n for parameters in given for n in parameters} - {"op"}

    def keys(self) -> Iterable[tuple[str, str]]:
        return dict.fromkeys([*self.matches, *(key for pattern in self._compiled for key in pattern.roots())])

    def match(self, editor: Editor, node: gs.Node) -> Match | None:
        match = self._found(editor, node)
        if match is not None and self._applies is not None and not call(self._applies, match.bound):
            return None
        return match

    def _found(self, editor: Editor, node: gs.Node) -> Match | None:
        if self.matches:
            return Match(node, [node], [t for t in node.outputs if t.name], self._arguments(editor, node))
        found = (m for pattern in self._compiled if (m := pattern.match(editor, node)) is not None)
        match = next(found, None)
        if match is not None and "node" in self._wanted:
            match.bound["node"] = Node(node, editor)
        return match

    def _arguments(self, editor: Editor, node: gs.Node) -> dict[str, Any]:
        """The node's inputs and attributes by the names that the schema gives them, defaults filled in.

        What only newer versions of the operator have is at its default: that is what older ones do.
        """
        view, domain = Node(node, editor), node.domain or ""
        if torch_domain.is_torch(node):
            found = torch_domain.decode(view).named()
        else:
            defaults = attribute_defaults(node.op, domain, editor.opset)
            found = {**added_later(node.op, domain, editor.opset), **defaults, **view.given}
            inputs = view.inputs
            for i, (name, variadic) in enumerate(input_names(node.op, domain, editor.opset)):
                found[name] = inputs[i:] if variadic else (inputs[i] if i < len(inputs) else None)
        unknown = self._wanted - found.keys() - {"node"}
        if unknown:
            raise RewriteError(
                f"{node.op} (opset {editor.opset}) has no input or attribute named {', '.join(sorted(unknown))}",
                hint=f"it has {', '.join(found)}, and `node` is the node itself",
            )
        return {name: view if name == "node" else found[name] for name in self._wanted}

    def check(self, match: Match) -> None:
        if self._check is not None:
            call(self._check, match.bound)

    def rewrite(self, op: Builder, match: Match) -> Any:
        return call(self._rewrite, match.bound, op)


def call(function: Callable[..., Any], bound: Mapping[str, Any], *first: Any) -> Any:
    """Call a rule's function with the variables it names; those that this pattern lacks are None."""
    parameters = list(inspect.signature(function).parameters.values())[len(first) :]
    star = [p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL]
    named = {p.name: bound.get(p.name) for p in parameters if p.name not in star}
    return function(*first, *(bound[star[0]] if star else ()), **named)


def _split(operator: str) -> tuple[str, str]:
    domain, _, name = operator.rpartition("::")
    return domain, name


def rule(
    *,
    name: str,
    matches: str | Sequence[str] = (),
    needed_by: Mapping[str, str] | None = None,
    examples: Sequence[Example],
    refuses: Sequence[Example] = (),
    opsets: tuple[int, int] = (1, 10**6),
    priority: int = 0,
) -> Callable[[type], ClassRule]:
    """Make a rule of a class of plain functions (no self).

    `pattern(op, x, axis)` describes the nodes to replace (further ones are named `pattern_...`), `check(x, axis)`
    refuses through `require`, and `rewrite(op, x, axis)` builds the replacement. With `matches="DFT"` there is no
    pattern: any DFT matches, and `check` and `rewrite` take the operator's inputs and attributes by their names in its
    schema, and `node`. `applies(...)`, when it is there, says by True or False which matches the rule is for; the
    others are no refusals.

    Args:
        name: unique, as "family/what-it-does".
        matches: an operator or several, as "DFT", "com.microsoft::Gelu" or "torch.aten::searchsorted".
        needed_by: target -> version condition, as {"tensorrt": "< 10.8"}; every TensorRT when left out, every target
            with {"any": "all versions"}.
        examples: at least two that it handles, one with a dynamic axis.
        refuses: examples that it must refuse, with `because=`.
        opsets: the first and the last opset it works on.
        priority: smaller ones are tried first.
    """

    def make(source: type) -> ClassRule:
        options = {"needed_by": needed_by, "examples": examples, "refuses": refuses, "opsets": opsets}
        return ClassRule(name, source, matches=matches, priority=priority, **options)

    return make


class GraphPass(Rule):
    """A function over the whole graph; it runs once the node rules have nothing left to do."""

    def __init__(self, name: str, source: Callable[[PassGraph], None], **options: Any) -> None:
        super().__init__(name, source, **options)
        self.run = source


def graph_pass(
    *,
    name: str,
    needed_by: Mapping[str, str] | None = None,
    examples: Sequence[Example],
    refuses: Sequence[Example] = (),
    opsets: tuple[int, int] = (1, 10**6),
    priority: int = 0,
) -> Callable[[Callable[[PassGraph], None]], GraphPass]:
    """Make a whole-graph pass of a function of a `PassGraph`; for what one node's surroundings cannot decide."""

    def make(source: Callable[[PassGraph], None]) -> GraphPass:
        options = {"needed_by": needed_by, "examples": examples, "refuses": refuses, "opsets": opsets}
        return GraphPass(name, source, priority=priority, **options)

    return make


class Plugin(ClassRule):
    """A node or pattern that becomes a TensorRT plugin node."""

    def __init__(self, name: str, source: type, *, plugin: str, version: str, namespace: str, **options: Any) -> None:
        functions = {k: v for k, v in vars(source).items() if inspect.isfunction(v)}
        if "inputs" not in functions:
            raise RewriteError("a plugin needs a function `inputs(...)` giving the plugin's inputs", rule=name)
        self._inputs, self._fields = functions["inputs"], functions.get("fields")
        self._plugin = (plugin, version, namespace)
        super().__init__(name, source, **options)

    def rewrite(self, op: Builder, match: Match) -> Any:
        if not op.target.startswith("tensorrt"):
            return super().rewrite(op, match)
        inputs = call(self._inputs, match.bound)
        fields = call(self._fields, match.bound) if self._fields else {}
        plugin, version, namespace = self._plugin
        types = [(v.known_dtype, v.dims) for v in (Value(t, op._editor) for t in match.outputs)]
        inputs = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
        named = {"plugin_version": version, "plugin_namespace": namespace, **fields}
        return op.call(plugin, *inputs, _domain="trt.plugins", _outputs=len(types), _types=types, **named)


def plugin(
    *,
    name: str,
    plugin: str,
    version: str = "1",
    namespace: str = "",
    matches: str | Sequence[str] = (),
    needed_by: Mapping[str, str] | None = None,
    examples: Sequence[Example],
    refuses: Sequence[Example] = (),
    opsets: tuple[int, int] = (1, 10**6),
    priority: int = 0,
) -> Callable[[type], Plugin]:
    """Make a rule that puts a TensorRT plugin in the place of a node or pattern.

    The class has what a rule's has, and `inputs(...)` (the plugin's input values) and `fields(...)` (its creator's
    fields). `rewrite` is its plain ONNX meaning, used for every other target.

    Args:
        name: the rule's name.
        plugin, version, namespace: how TensorRT's plugin registry knows it.
        matches, needed_by, examples, refuses, opsets, priority: as for `rule`.
    """

    def make(source: type) -> Plugin:
        options: dict[str, Any] = {
            "needed_by": needed_by or {"any": "all versions"},
            "examples": examples,
            "refuses": refuses,
            "opsets": opsets,
        }
        named = {"plugin": plugin, "version": version, "namespace": namespace}
        return Plugin(name, source, matches=matches, priority=priority, **named, **options)

    return make
