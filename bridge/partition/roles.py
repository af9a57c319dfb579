"""Which nodes may go into an engine, which stay in PyTorch and why, and which go wherever they are needed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

import torch

from bridge import torch_private as tp
from bridge.frontend.alias import Memory
from bridge.frontend.facts import Varies
from bridge.frontend.program import Program
from bridge.frontend.provenance import TAG
from bridge.partition.naming import within
from bridge.runtime.calls import OPERATOR

ENGINE_DTYPES = {torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.bool}
MOST_DIMENSIONS = 8
SMALL_CONSTANT = 1024
_STRUCTURE = {
    "prim::TupleConstruct", "prim::TupleUnpack", "prim::TupleIndex", "prim::DictConstruct", "prim::ListConstruct",
    "prim::ListUnpack", "prim::GetAttr", "prim::SetAttr", "prim::Constant", "prim::unchecked_cast",
    "aten::__getitem__", "prim::Uninitialized", "prim::Return",
}  # fmt: skip
_BY_LAYOUT = ("aten::as_strided", "aten::as_strided_copy", "aten::as_strided_scatter")
_OFF_SWITCHES = ("train", "dropout_p", "dropout")
_DROPOUTS = {"aten::dropout", "aten::feature_dropout", "aten::alpha_dropout", "aten::feature_alpha_dropout"}


class Role(Enum):
    """Where a node runs."""

    ENGINE = "engine"
    TORCH = "PyTorch"
    FREE = "wherever it is needed"


@dataclass(frozen=True)
class Policy:
    """What the user and the backend decide about operators.

    Attributes:
        refused: nodes, by identity, that some part of the street refused, with the reason.
        executed_ops: operators that the user leaves to PyTorch.
        executed_modules: submodule paths or types that the user leaves to PyTorch.
        truncate_double: whether float64 is computed as float32.
        control: whether branches and loops may go into engines as a whole.
    """

    refused: Mapping[int, str] = field(default_factory=dict)
    executed_ops: Collection[str] = ()
    executed_modules: Collection[str] = ()
    truncate_double: bool = False
    control: bool = True


class Roles:
    """The role of every node of a program's graph, and the reasons of those that stay in PyTorch."""

    def __init__(self, program: Program, memory: Memory, policy: Policy) -> None:
        self.program, self.memory, self.policy = program, memory, policy
        self.facts = program.facts
        self.reasons: dict[int, str] = {}
        self.turns: set[str] = set()  # counters of loops that may go into engines
        self._roles: dict[int, Role] = {}
        self._tensors: dict[str, str | None] = {}
        self._left: dict[int, str] = {}
        self._decide_all()

    def _decide_all(self) -> None:
        for node in tp.walk(self.program.graph):
            self._roles[node.i(TAG)] = self._decide(node)
        self._settle_lists()

    def leave(self, refused: Mapping[int, str]) -> None:
        """Decides all anew, with further nodes, by identity, that stay in PyTorch, and why."""
        self._left |= refused
        self._roles.clear()
        self.reasons.clear()
        self._decide_all()

    def of(self, node: tp.Node) -> Role:
        return self._roles[node.i(TAG)]

    def stay(self, node: tp.Node, reason: str) -> None:
        """Leaves a node to PyTorch."""
        self._roles[node.i(TAG)] = Role.TORCH
        self.reasons[node.i(TAG)] = reason

    def settle(self, node: tp.Node, role: Role) -> None:
        """Gives a node a role that needs no reason."""
        self._roles[node.i(TAG)] = role
        self.reasons.pop(node.i(TAG), None)

    def decide_again(self, node: tp.Node) -> Role:
        """What a node would be now, all others as they are."""
        kept = self.reasons.pop(node.i(TAG), None)
        role = self._decide(node)
        self.reasons.pop(node.i(TAG), None)
        if kept is not None:
            self.reasons[node.i(TAG)] = kept
        return role

    def _decide(self, node: tp.Node) -> Role:
        if node.kind() == "prim::Constant" or self._is_free(node):
            return Role.FREE
        if node.kind() == "prim::ListUnpack" and self._of_tensors(node.input()) and _made_by_operator(node.input()):
            return self._decide_parts(node)
        if node.kind() in _STRUCTURE or node.kind() in ("prim::If", "prim::Loop"):
            return Role.TORCH
        reason = self._why_not(node)
        if reason is None:
            return Role.ENGINE
        self.reasons[node.i(TAG)] = reason
        return Role.TORCH

    def _decide_parts(self, node: tp.Node) -> Role:
        """The parts of a list that an operator makes go where that goes, unless one of them cannot."""
        reasons = (self._why_not_value(value) for value in tp.outputs_of(node) if value.uses())
        reason = self.policy.refused.get(node.i(TAG)) or next(filter(None, reasons), None)
        if reason is None:
            return Role.ENGINE
        self.reasons[node.i(TAG)] = reason
        return Role.TORCH

    def _is_free(self, node: tp.Node) -> bool:
        """Arithmetic on sizes, and lists built for one operator: cheap, without effect, copied to their users."""
        if (
            tp.blocks_of(node)
            or node.kind() in ("prim::GetAttr", "prim::RaiseException", "prim::Uninitialized")
            or not node.outputsSize()
        ):
            return False
        if any(self.memory.written(value) for value in tp.outputs_of(node)):
            return False
        if node.kind() == "prim::ListConstruct":
            return str(node.output().type().annotation_str) in _LISTS and all(
                self._crosses(value) for value in tp.inputs_of(node)
            )
        if not node.kind().startswith(("aten::", "prim::NumToTensor", "prim::min", "prim::max", "prim::abs")):
            return False
        if any(self.facts.of(value).content is Varies.WITH_DATA for value in tp.outputs_of(node)):
            return False
        return all(self._is_scalar(value) for value in tp.outputs_of(node)) and all(
            self._is_size_or_read(node, v) for v in tp.inputs_of(node)
        )

    def _crosses(self, value: tp.Value) -> bool:
        return (
            value.type().kind() in ("TensorType", "OptionalType", "NoneType")
            or self.facts.of(value).content is not Varies.WITH_DATA
        )

    def _is_scalar(self, value: tp.Value) -> bool:
        if value.type().kind() in ("IntType", "FloatType", "BoolType", "NumberType"):
            return True
        if str(value.type().annotation_str) in ("List[int]", "List[float]", "List[bool]"):
            return True
        tensor = self.facts.known_kind(value)
        return value.type().kind() == "TensorType" and tensor is not None and tensor.rank == 0

    def _is_size_or_read(self, node: tp.Node, value: tp.Value) -> bool:
        """Either a number itself, or a tensor of which only the shape is read."""
        if value.type().kind() != "TensorType":
            return True
        reads_shape = node.kind() in ("aten::size", "aten::numel", "aten::dim", "aten::len")
        return reads_shape or (
            not tp.is_constant(value)
            and self.facts.of(value).content is not Varies.WITH_DATA
            and value.node().kind() != "prim::GetAttr"
        )

    def _of_tensors(self, value: tp.Value) -> bool:
        return str(value.type().annotation_str) == "List[Tensor]"

    def _why_not(self, node: tp.Node) -> str | None:
        told = self.why_not_wanted(node)
        if told is None and tp.schema(node) is None:
            told = "a construct of TorchScript that has no meaning in ONNX"
        return told or self._why_not_memory(node) or self._why_not_random(node) or self._why_not_values(node)

    def why_not_wanted(self, node: tp.Node) -> str | None:
        """Why the user or the target wants a node in PyTorch."""
        identity, kind = node.i(TAG), node.kind()
        origin = self.program.provenance[identity]
        refused = self.policy.refused.get(identity) or self._left.get(identity)
        if refused is not None:
            return refused
        if kind == OPERATOR:
            return "it is an engine already"
        if kind.rstrip("_") in self.policy.executed_ops or kind in self.policy.executed_ops:
            return "torch_executed_ops names it"
        if any(within(origin.module_path, origin.module_type, name) for name in self.policy.executed_modules):
            return "torch_executed_modules names its module"
        return None

    def _why_not_memory(self, node: tp.Node) -> str | None:
        if any(self.memory.written(value) for value in (*tp.inputs_of(node), *tp.outputs_of(node))):
            return "it reads or changes memory that is updated in place"
        seen = self.facts.tensor(node.inputsAt(0)) if node.kind() in _BY_LAYOUT else None
        if seen is not None and not seen.in_order:
            return "it reads memory as it lies, and what it is given lies otherwise in an engine"
        if tp.written_to(node):
            return "it changes its input in place"
        return None

    def _why_not_random(self, node: tp.Node) -> str | None:
        """Random numbers are never baked; what draws none where a dropout in it is off draws none."""
        kind, schema = node.kind(), tp.schema(node)
        arguments = schema.arguments if schema is not None else []
        named = {a.name: v for a, v in zip(arguments, tp.inputs_of(node), strict=False)}
        draws = node.isNondeterministic() or kind in _DROPOUTS or "dropout_p" in named
        if not draws or kind == "aten::_native_multi_head_attention":
            return None
        switches = [named[name] for name in _OFF_SWITCHES if name in named]
        if kind in _DROPOUTS:
            switches.append(named["p"])
        off = any(tp.is_constant(value) and tp.constant_value(value) in (False, 0) for value in switches)
        return None if off else "it draws random numbers"

    def _why_not_values(self, node: tp.Node) -> str | None:
        used = [value for value in tp.outputs_of(node) if value.uses()]
        for value in tp.outputs_of(node):
            if not self._is_tensor_like(value):
                return f"it gives a Python value ({value.type().annotation_str})"
        for value in (*tp.inputs_of(node), *used):
            reason = self._why_not_value(value)
            if reason is not None:
                return reason
        return None

    def _is_tensor_like(self, value: tp.Value) -> bool:
        return value.type().kind() == "TensorType" or self._of_tensors(value)

    def _why_not_value(self, value: tp.Value) -> str | None:
        if value.debugName() in self.turns or (tp.is_constant(value) and value.type().kind() != "TensorType"):
            return None
        if value.type().kind() == "TensorType":
            return self.why_not_tensor(value)
        made = value.node()
        if made.kind() == "prim::ListConstruct":
            inside = (self._why_not_value(item) for item in made.inputs() if item.type().kind() == "TensorType")
            reason = next((told for told in inside if told is not None), None)
            if reason is not None:
                return reason
        if self._of_tensors(value):
            return None
        if (
            made.kind() == "prim::ListConstruct"
            and made.i(TAG) in self._roles
            and self._roles[made.i(TAG)] is Role.FREE
        ):
            return None
        if self.facts.of(value).content is Varies.WITH_DATA:
            return f"an argument ({value.type().annotation_str}) depends on the data"
        return None

    def why_not_tensor(self, value: tp.Value) -> str | None:
        """Why a tensor cannot be in an engine, None when it can."""
        name = value.debugName()
        if name not in self._tensors:
            self._tensors[name] = self._why_not_tensor(value)
        return self._tensors[name]

    def _why_not_tensor(self, value: tp.Value) -> str | None:
        if tp.is_constant(value):
            tensor = tp.constant_value(value)
            if isinstance(tensor, torch.Tensor) and 0 in tensor.shape:
                return "a tensor is empty"
            scalar = not isinstance(tensor, torch.Tensor) or (tensor.dtype is torch.float64 and tensor.ndim == 0)
            return None if scalar else self._why_not_dtype(tensor.dtype)
        tensor = self.facts.tensor(value)
        if tensor is None:
            return (
                "it is in a branch that the example did not run"
                if not self.facts.seen.values.get(value.debugName())
                else None
            )
        if not tensor.strided:
            return "TensorRT has no sparse tensors, and no nested ones"
        if self.facts.of(value).kind is not Varies.NEVER:
            return "dtype or rank of a tensor depend on the data"
        if self.facts.of(value).shape is Varies.WITH_DATA:
            return "the shape of a tensor depends on the data"
        if tensor.rank > MOST_DIMENSIONS:
            return f"a tensor has {tensor.rank} dimensions; TensorRT takes {MOST_DIMENSIONS}"
        sizes = self.facts.sizes(value)
        if sizes is not None and 0 in sizes:
            return "a tensor is empty"
        return self._why_not_dtype(tensor.dtype) if not self._is_size(value) else None

    def _is_size(self, value: tp.Value) -> bool:
        tensor = self.facts.known_kind(value)
        return tensor is not None and tensor.rank == 0 and self.facts.of(value).content is not Varies.WITH_DATA

    def _why_not_dtype(self, dtype: torch.dtype) -> str | None:
        if dtype in ENGINE_DTYPES or (dtype is torch.float64 and self.policy.truncate_double):
            return None
        if dtype is torch.float64:
            return "TensorRT has no float64 (truncate_double=True computes it as float32)"
        return f"TensorRT has no {str(dtype).removeprefix('torch.')}"

    def _settle_lists(self) -> None:
        """A list of tensors that an operator makes cannot cross: its maker and its reader run in the same place."""
        handling = [
            node
            for node in tp.walk(self.program.graph)
            if any(self._of_tensors(value) for value in (*tp.inputs_of(node), *tp.outputs_of(node)))
        ]
        changed = True
        while changed:
            changed = False
            for node in handling:
                if self.of(node) is not Role.ENGINE:
                    continue
                reason = self._why_list_stays(node)
                if reason is not None:
                    self.stay(node, reason)
                    changed = True

    def _why_list_stays(self, node: tp.Node) -> str | None:
        for value in tp.inputs_of(node):
            if (
                self._of_tensors(value) and self.of(value.node()) is Role.TORCH
                if _has_tag(value.node())
                else self._of_tensors(value)
            ):
                return "it takes a list of tensors made in PyTorch"
        for value in tp.outputs_of(node):
            readers = [use.user for use in value.uses() if not self._reads_in_engine(use.user, node)]
            if self._of_tensors(value) and readers:
                told = (self.reasons.get(reader.i(TAG)) for reader in readers if _has_tag(reader))
                return next(filter(None, told), "it makes a list of tensors that PyTorch reads")
        return None

    def _reads_in_engine(self, user: tp.Node, maker: tp.Node) -> bool:
        if not _has_tag(user) or self.of(user) is not Role.ENGINE:
            return False
        return user.owningBlock() == maker.owningBlock()


_LISTS = {"List[int]", "List[float]", "List[bool]", "List[Tensor]", "List[Optional[Tensor]]", "List[Optional[int]]"}


def _has_tag(node: tp.Node) -> bool:
    return node.hasAttribute(TAG)


def _made_by_operator(value: tp.Value) -> bool:
    return tp.schema(value.node()) is not None and value.node().kind() != "prim::ListConstruct"
