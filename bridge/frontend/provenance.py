"""Where a node came from: its operator, the module it ran in and the user's source line.

Every TorchScript node that takes part carries an integer attribute, :data:`TAG`, an index into a :class:`Provenance`.
The tag survives inlining, freezing, cloning and the exporter, and stands at the end of the names of ONNX nodes.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import torch

from bridge import torch_private as tp

TAG = "bridge_id"
ORIGIN = "bridge_origin"
"""A node's origin as JSON, on nodes that were not recorded by TorchScript itself; tagging takes it off."""
METADATA = "bridge.provenance"
_NAME = re.compile(r"#(\d+)")
_TRACED = re.compile(r"^(?P<file>.+)\((?P<line>\d+)\): (?P<function>.+)$", re.MULTILINE)
_SCRIPTED = re.compile(
    r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)(?P<code>(?:\n(?!\s*File "|Serialized).*)*)', re.MULTILINE
)
_LEVEL = re.compile(r"(?P<name>[^.()]+)\((?P<type>[^()]*)\)")
_TORCH = torch.__file__.rsplit("/", 1)[0] + "/"


@dataclass(frozen=True)
class Origin:
    """One TorchScript node, in the user's words.

    Attributes:
        operator: the node's kind, ``aten::softmax``.
        module_path: the submodule it ran in, ``encoder.layer.0``; empty for the outermost.
        module_type: that submodule's class, ``BertLayer``.
        source: ``file.py:12 in forward``; empty where PyTorch kept none.
    """

    operator: str
    module_path: str = ""
    module_type: str = ""
    source: str = ""

    def __str__(self) -> str:
        where = f" ({self.source})" if self.source else ""
        inside = f" in {self.module_path}" if self.module_path else ""
        return f"{self.operator}{inside}{where}"


@dataclass
class Provenance:
    """The origins of a module's nodes; the position is the identity."""

    origins: list[Origin] = field(default_factory=list)

    def add(self, origin: Origin) -> int:
        self.origins.append(origin)
        return len(self.origins) - 1

    def __getitem__(self, identity: int) -> Origin:
        return self.origins[identity]

    def __len__(self) -> int:
        return len(self.origins)

    def of_name(self, name: str) -> Origin | None:
        """The origin that an ONNX node's name speaks of."""
        identity = identity_of(name)
        return self.origins[identity] if identity is not None and identity < len(self.origins) else None

    def to_json(self) -> str:
        return json.dumps([asdict(origin) for origin in self.origins])

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        return cls([Origin(**entry) for entry in json.loads(text)])


def identity_of(name: str) -> int | None:
    """The identity at the end of an ONNX node's name, or of the node that a rewrite replaced."""
    found = _NAME.search(name)
    return int(found.group(1)) if found else None


def onnx_name(origin: Origin, identity: int) -> str:
    return f"{origin.module_path or 'main'}/{origin.operator}#{identity}"


def tag(module: torch.jit.ScriptModule, graph: tp.Graph, calls: dict[str, str], table: Provenance) -> None:
    """Gives every node of an inlined graph that has none an identity of its own."""
    types = {path: type_name(child) for path, child in module.named_modules()}
    for node in tp.walk(graph):
        if node.hasAttribute(TAG):
            continue
        if node.hasAttribute(ORIGIN):
            node.i_(TAG, table.add(Origin(**json.loads(node.s(ORIGIN)))))
            node.removeAttribute(ORIGIN)
            continue
        path = module_path(node, types)
        place = str(node.sourceRange())
        source = user_line(place) or nearest_call(path, calls) or any_line(place)
        node.i_(TAG, table.add(Origin(node.kind(), path, types.get(path, ""), source)))


def type_name(module: torch.nn.Module) -> str:
    return str(getattr(module, "original_name", type(module).__name__))


def module_path(node: tp.Node, types: dict[str, str]) -> str:
    """``layer1.0.conv1`` from a trace's scope, or from the call stack that inlining left."""
    scope = str(node.scopeName())
    if "__module" in scope:
        return scope.rsplit("/", 1)[-1].removeprefix("__module").lstrip(".")
    path = ""
    for level in _LEVEL.finditer(node.getModuleHierarchy()):
        if level["name"] == "UNKNOWN_INSTANCE":
            break
        if level["name"] == "SELF":
            continue
        path = _descend(path, level["name"], level["type"], types)
    return path


def _descend(path: str, name: str, type_: str, types: dict[str, str]) -> str:
    """The child called ``name``; containers in between leave no trace in a call stack."""
    start = f"{path}." if path else ""
    if start + name in types:
        return start + name
    inside = [p for p, t in types.items() if p.startswith(start) and p.endswith(f".{name}") and t == type_]
    return min(inside, key=len) if inside else start + name


def calls_of(module: torch.jit.ScriptModule, method: str) -> dict[str, str]:
    """The user's line that calls each submodule, by path, read from graphs that are not inlined yet."""
    found: dict[str, str] = {}
    _collect_calls(module, method, "", "", found, 0)
    return found


def _collect_calls(
    owner: torch.nn.Module, method: str, path: str, source: str, found: dict[str, str], depth: int
) -> None:
    if depth > 64 or not isinstance(owner, torch.jit.ScriptModule) or not tp.has_method(owner, method):
        return
    graph = tp.graph_of(owner, method)
    paths = {next(iter(graph.inputs())).debugName(): ""}
    for node in tp.walk(graph):
        if node.kind() == "prim::GetAttr" and node.input().debugName() in paths:
            parent = paths[node.input().debugName()]
            paths[node.output().debugName()] = f"{parent}.{node.s('name')}" if parent else node.s("name")
        elif node.kind() == "prim::CallMethod":
            local = paths.get(next(iter(node.inputs())).debugName())
            if local is None:
                continue
            full = ".".join(part for part in (path, local) if part)
            line = user_line(str(node.sourceRange())) or source
            if line:
                found.setdefault(full, line)
            if local:
                child = functools.reduce(getattr, local.split("."), owner)
                _collect_calls(child, node.s("name"), full, line, found, depth + 1)


def nearest_call(path: str, calls: dict[str, str]) -> str:
    """The user's line that called the submodule at ``path`` or the nearest one around it."""
    while path:
        if path in calls:
            return calls[path]
        path = path.rpartition(".")[0]
    return ""


def lines(source_range: str) -> Iterator[tuple[str, str, str]]:
    """File, line and function of every frame of a source range, innermost first."""
    for match in _TRACED.finditer(source_range):
        yield match["file"], match["line"], match["function"]
    for match in _SCRIPTED.finditer(source_range):
        code = (match["code"] or "").split("\n")
        marked = next((i for i, text in enumerate(code) if "<--- HERE" in text), 0)
        functions = re.findall(r"def (\w+)", "\n".join(code[:marked]))
        yield match["file"], match["line"], functions[-1] if functions else "forward"


def is_traced(node: tp.Node) -> bool:
    """Whether a node was recorded by a trace, not compiled from source."""
    return _TRACED.search(str(node.sourceRange())) is not None


def user_line(source_range: str) -> str:
    """The innermost frame that is the user's own, not PyTorch's."""
    for file, line, function in lines(source_range):
        if not file.startswith(_TORCH) and "/torch/" not in file and not file.startswith("code/__torch__"):
            return _short(file, line, function)
    return ""


def any_line(source_range: str) -> str:
    return next((_short(*frame) for frame in lines(source_range)), "")


def _short(file: str, line: str, function: str) -> str:
    return f"{'/'.join(file.rsplit('/', 2)[-1:])}:{line} in {function}"
