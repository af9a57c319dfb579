"""What `scripts/coverage_operators` measures: PyTorch's samples of its operators and modules, and variations."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import re
import runpy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

FORMS = ("function", "method", "inplace", "out", "mutated")
INPUTS = ("given", "noncontiguous", "extreme")


class LeftOut(Exception):
    """Why an operator or a sample cannot be measured."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A module and what it is called with.

    Attributes:
        given: the positional arguments: tensors, and Python values where the module is scripted.
        named: the arguments by name.
        smaller, larger: further positional arguments, at the ends of the range of shapes.
    """

    module: torch.nn.Module
    given: Sequence[Any]
    named: dict[str, Any] = dataclasses.field(default_factory=dict)
    smaller: Sequence[Any] | None = None
    larger: Sequence[Any] | None = None

    @property
    def calls(self) -> list[Case]:
        """The same module with each of the arguments it is to be called with."""
        others = [given for given in (self.smaller, self.larger) if given is not None]
        return [self, *(Case(self.module, given, self.named) for given in others)]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which cases are asked for.

    Attributes:
        dtype: that of the samples' tensors.
        modules: torch.nn's modules in the place of operators.
        scripted: modules scripted, with the samples' Python values as arguments; else traced.
        form: how an operator is called, one of `FORMS`.
        inputs: what is made of the samples' tensors, one of `INPUTS`.
        dynamic: the first dimension of the first tensor and its last vary, and with them all that are as large.
        samples: of each operator at most.
    """

    dtype: torch.dtype = torch.float32
    modules: bool = False
    scripted: bool = False
    form: str = "function"
    inputs: str = "given"
    dynamic: bool = False
    samples: int = 20

    def names(self, pattern: str = "") -> list[str]:
        """The operators or modules that match and take the dtype."""
        return [name for name, info in self._infos().items() if self._takes(info) and re.search(pattern, name)]

    def _takes(self, info: Any) -> bool:
        if self.modules:  # few of the samples are said to be for sixteen bits
            return self.dtype in info.dtypes or (self.dtype.itemsize == 2 and torch.float32 in info.dtypes)
        has = {"method": info.method_variant, "inplace": info.inplace_variant, "out": info.supports_out}
        return self.dtype in info.dtypes and bool(has.get(self.form, True))

    def _infos(self) -> dict[str, Any]:
        if self.modules:
            from torch.testing._internal.common_modules import module_db

            return {info.name: info for info in module_db}
        from torch.testing._internal.common_methods_invocations import op_db

        return {f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name: op for op in op_db}

    def cases(self, name: str) -> Iterator[Callable[[], Case]]:
        """How to make each case of an operator or module, one a sample."""
        for made in self._static_cases(name):
            yield (lambda made=made: varying(made())) if self.dynamic else made

    def _static_cases(self, name: str) -> Iterator[Callable[[], Case]]:
        info = self._infos()[name]
        if self.modules:
            made = info.module_inputs_func(info, "cpu", self.dtype, False, False)
            for sample in itertools.islice(made, self.samples):
                yield lambda sample=sample: self._of_module(info, sample)
        else:
            for sample in itertools.islice(info.sample_inputs("cpu", self.dtype, requires_grad=False), self.samples):
                yield lambda sample=sample: self._of_operator(info, sample)

    def _of_module(self, info: Any, sample: Any) -> Case:
        made = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs).to(self.dtype).eval()
        args, kwargs = self._varied((sample.forward_input.args, sample.forward_input.kwargs))
        if "Lazy" in type(made).__name__:
            made(*args, **kwargs)
        if self.scripted:
            return Case(made, list(args), dict(kwargs))
        return over_tensors(made, args, kwargs)

    def _of_operator(self, op: Any, sample: Any) -> Case:
        args, kwargs = self._varied(((sample.input, *sample.args), sample.kwargs))
        if self.scripted:
            return Case(in_script(op.name, args, kwargs), [a for a in [*args, *kwargs.values()] if not _literal(a)])
        return over_tensors(_form(op, self.form), args, kwargs)

    def _varied(self, arguments: Any) -> Any:
        if self.inputs == "given":
            return arguments
        change = {"noncontiguous": _apart, "extreme": _extreme}[self.inputs]
        return pytree.tree_map_only(torch.Tensor, change, arguments)


def _apart(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, every other element of a larger tensor's."""
    from torch.testing._internal.common_utils import noncontiguous_like

    return noncontiguous_like(tensor.detach())


def _extreme(tensor: torch.Tensor) -> torch.Tensor:
    """A third of the floating numbers replaced by those at the ends of the type (whole ones may be indices)."""
    made = tensor.detach().clone()
    if not made.is_floating_point() or not made.numel():
        return made
    largest = torch.finfo(made.dtype).max
    numbers = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0, largest, -largest, 1.0, -1.0, 0.5, -2.5])
    drawn = torch.Generator().manual_seed(made.numel())
    chosen = numbers.to(made.dtype)[torch.randint(len(numbers), made.shape, generator=drawn)]
    return torch.where(torch.rand(made.shape, generator=drawn) < 0.34, chosen, made)


def over_tensors(called: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Case:
    """A module over a call's tensors; the other arguments are fixed."""
    leaves, spec = pytree.tree_flatten((tuple(args), kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    class Operator(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.called = called

        def forward(self, *tensors: Any) -> Any:
            given = list(leaves)
            for place, tensor in zip(places, tensors, strict=True):
                given[place] = tensor
            args, kwargs = pytree.tree_unflatten(given, spec)
            made = [x for x in pytree.tree_leaves(self.called(*args, **kwargs)) if isinstance(x, torch.Tensor)]
            return made[0] if len(made) == 1 else tuple(made)

    return Case(Operator().eval(), [leaves[i].detach() for i in places])


def varying(case: Case) -> Case:
    """The case at three sizes of the first tensor's first and last dimensions, or of one of these.

    Raises:
        LeftOut: the module takes no other sizes.
    """
    tensors = [t for t in case.given if isinstance(t, torch.Tensor) and t.dim() and t.numel()]
    if not tensors or len(case.given) != sum(isinstance(t, torch.Tensor) for t in case.given) or case.named:
        raise LeftOut("no dimension to vary")
    main = next(i for i, t in enumerate(case.given) if t is tensors[0])
    ends = [{0, tensors[0].dim() - 1}, {0}, {tensors[0].dim() - 1}]
    for axes, alone in itertools.product(ends, (True, False)):
        sizes = {tensors[0].shape[axis] for axis in axes} - {1} if not alone else set()
        chosen = [
            {axis for axis, size in enumerate(t.shape) if size in sizes} | (axes if i == main else set())
            for i, t in enumerate(case.given)
        ]
        usual, larger = ([_grown(t, c, more) for t, c in zip(case.given, chosen, strict=True)] for more in (1, 3))
        if _runs(case.module, usual) and _runs(case.module, larger):
            return Case(case.module, usual, smaller=case.given, larger=larger)
    raise LeftOut("it takes no other sizes")


def _runs(module: torch.nn.Module, given: Sequence[torch.Tensor]) -> bool:
    try:
        module(*copy.deepcopy(given))
    except Exception:
        return False
    return True


def _grown(tensor: torch.Tensor, axes: set[int], more: int) -> torch.Tensor:
    """The tensor repeated from its start along some axes, up to ``more`` further elements."""
    for axis in axes:
        size = tensor.shape[axis]
        tensor = tensor.index_select(axis, torch.arange(size + more) % size)
    return tensor


def _form(op: Any, form: str) -> Any:
    """The operator, called in one of `FORMS`; results besides its own are tensors that it writes to."""

    def inplace(x: Any, *args: Any, **kwargs: Any) -> Any:
        written = x.clone()
        return op.inplace_variant(written, *args, **kwargs), written * 1

    def out(*args: Any, **kwargs: Any) -> Any:
        results = op(*args, **kwargs)
        written = pytree.tree_map_only(torch.Tensor, torch.zeros_like, results)
        op(*args, out=written if isinstance(written, torch.Tensor) else tuple(written), **kwargs)
        return written

    def mutated(x: Any, *args: Any, **kwargs: Any) -> Any:
        changed = x.clone()
        result = op(changed, *args, **kwargs)
        changed.zero_()
        return result, changed

    named = {"function": op, "method": op.method_variant, "inplace": inplace, "out": out, "mutated": mutated}
    return named[form]


_LITERALS = (torch.dtype, torch.device, torch.layout, torch.memory_format, type(None))


def _literal(value: Any) -> bool:
    return isinstance(value, _LITERALS)


def _type(value: Any) -> str:
    """How TorchScript writes a value's type."""
    if isinstance(value, torch.Tensor):
        return "Tensor"
    if isinstance(value, (bool, int, float, complex, str)):
        return type(value).__name__
    if isinstance(value, (list, tuple)) and value and len({_type(item) for item in value}) == 1:
        return f"List[{_type(value[0])}]"
    if isinstance(value, torch.Size):
        return "List[int]"
    raise LeftOut(f"TorchScript has no argument of type {type(value).__name__}")


def in_script(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> torch.nn.Module:
    """A module whose forward takes all of a call's arguments, Python's numbers, lists and strings too."""
    named = [(f"a{i}", "", value) for i, value in enumerate(args)]
    named += [(f"k_{key}", f"{key}=", value) for key, value in kwargs.items()]
    taken = ", ".join(f"{own}: {_type(value)}" for own, _, value in named if not _literal(value))
    passed = ", ".join(f"{key}{value if _literal(value) else own}" for own, key, value in named)
    body = f"    def forward(self, {taken}):\n        return torch.{name}({passed})\n"
    source = (
        f"import torch\nfrom typing import List\nfrom torch import Tensor\nclass Operator(torch.nn.Module):\n{body}"
    )
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:  # torch.jit.script reads a module's source
        file.write(source)
        file.flush()
        try:
            return torch.jit.script(runpy.run_path(file.name)["Operator"]()).eval()
        except Exception as error:
            raise LeftOut(f"is not scripted: {str(error).strip().splitlines()[0][:120]}") from error


def fresh(case: Case) -> tuple[list[Any], dict[str, Any]]:
    """The arguments for one call, their memory laid out as in the case."""
    return copy.deepcopy((list(case.given), dict(case.named)))


def specified(case: Case) -> dict[str, Any]:
    """The case's arguments as fields of a spec: lists of numbers are constants, not shapes."""
    import bridge

    def ranged(value: Any, low: Any, high: Any) -> Any:
        return bridge.Input(min_shape=low.shape, opt_shape=value.shape, max_shape=high.shape, example=value)

    def plain(value: Any) -> bool:
        return isinstance(value, (list, tuple)) and all(
            isinstance(x, (bool, int, float, str)) or plain(x) for x in value
        )

    def item(value: Any) -> Any:
        return bridge.Constant(value) if plain(value) else value

    given, named = fresh(case)
    if case.smaller is not None and case.larger is not None:
        return {"inputs": [ranged(*each) for each in zip(given, case.smaller, case.larger, strict=True)]}
    made: dict[str, Any] = {"inputs": [item(value) for value in given]}
    return {**made, "kwarg_inputs": {key: item(value) for key, value in named.items()}} if named else made


def in_form(case: Case, scripted: bool) -> Any:
    """The case's module as TorchScript.

    Raises:
        LeftOut: it has no such form.
    """
    if isinstance(case.module, torch.jit.ScriptModule):
        return case.module
    if scripted:
        try:
            return torch.jit.script(case.module)
        except Exception as error:
            raise LeftOut(f"is not scripted: {str(error).strip().splitlines()[0][:120]}") from error
    given, named = fresh(case)
    assert not named
    return torch.jit.trace(case.module, tuple(given), check_trace=False)
