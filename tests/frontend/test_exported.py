"""Exported programs as TorchScript: numbers equal eager at several sizes, names, mutation and provenance."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from bridge.errors import ExportError
from bridge.frontend.exported import ExportedScript, to_script

BATCH = Dim("batch", min=1, max=64)


def emitted(module: nn.Module, args: tuple[Any, ...], dynamic: Any = None, **kwargs: Any) -> ExportedScript:
    program = torch.export.export(module.eval(), args, kwargs or None, dynamic_shapes=dynamic)
    return to_script(program)


def call(script: ExportedScript, *args: Any, **kwargs: Any) -> Any:
    """Calls with the program's own structure and gives its result's structure back."""
    leaves, _ = pytree.tree_flatten((args, kwargs))
    with torch.no_grad():
        found = script.module(*(leaves[i] for i in script.arg_leaves))
    values = dict(script.constant_outputs)
    values |= dict(zip(script.output_leaves, found if isinstance(found, tuple) else [found], strict=True))
    return pytree.tree_unflatten([values[i] for i in sorted(values)], script.out_spec)


def assert_same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def check(module: nn.Module, calls: Sequence[tuple[Any, ...]], dynamic: Any) -> ExportedScript:
    script = emitted(module, calls[0], dynamic)
    with torch.no_grad():
        for args in calls:
            assert_same(call(script, *args), module(*args))
    return script


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.embed, self.encoder = nn.Embedding(50, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(tokens.shape[1], tokens.shape[1]).triu(1).bool()
        return self.head(self.encoder(self.embed(tokens), mask=mask, is_causal=True))


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(0) / x.shape[0]


class Arithmetic(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
        rows, half = x.shape[0], x.shape[0] // 2
        scaled = x * (rows**2 - rows % 3) / (rows * 0.5) + torch.sym_max(half, 2)
        windows = scaled.new_zeros(rows + half - rows % 2, 2)
        return torch.cat([scaled, windows], 0), torch.arange(rows) + rows, half


class Structured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("scale", torch.full((4,), 3.0), persistent=False)

    def forward(
        self, inputs: dict[str, torch.Tensor], *, extra: list[torch.Tensor], flag: bool = True
    ) -> dict[str, Any]:
        a = self.linear(inputs["a"]) * self.scale * torch.tensor([1.0, 2.0, 3.0, 4.0])
        first, second = inputs["b"].chunk(2, 1)
        return {"sum": a + extra[0], "pair": (first, [second, None]), "rows": a.shape[0], "unchanged": extra[1]}


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        self.seen.copy_(self.seen * 0.5 + x.sum(0))
        return x * self.count + self.seen


class Conditional(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        def double(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x * 2, y.sin()

        def negative(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return -x / x.shape[0], y + 1

        a, b = torch.cond(x.sum() > 0, double, negative, (x, y))
        with torch.no_grad():
            return a @ b.T


class While(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from torch._higher_order_ops.while_loop import while_loop

        def goes_on(i: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return i < 4

        def step(i: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return i + 1, x * 1.5 + i

        return while_loop(goes_on, step, (torch.zeros((), dtype=torch.int64), x))[1]


class Suppress(nn.Module):
    def forward(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        keep = torchvision.ops.nms(boxes, scores, 0.5)
        return boxes[keep] * keep.shape[0]


def rows(*counts: int, columns: int = 4) -> list[tuple[torch.Tensor]]:
    return [(torch.randn(count, columns),) for count in counts]


def test_multilayer_perceptron_keeps_its_names() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Sequential(nn.Linear(8, 2), nn.Softmax(-1)))
    script = check(module, rows(3, 1, 17), ({0: BATCH},))
    assert list(script.module.state_dict()) == list(module.state_dict())
    assert script.module.state_dict()["0.weight"].data_ptr() == module[0].weight.data_ptr()
    assert not script.module.training


def test_convolutional_network_at_any_size() -> None:
    sizes = [(2, 16, 20), (1, 9, 31), (5, 32, 8)]
    dims = ({0: BATCH, 2: Dim("height", min=8, max=64), 3: Dim("width", min=8, max=64)},)
    check(Convolutional(), [(torch.randn(b, 3, h, w),) for b, h, w in sizes], dims)


def test_transformer_with_tied_weights_at_any_length() -> None:
    calls = [(torch.randint(0, 50, (b, n)),) for b, n in ((2, 7), (1, 3), (4, 12))]
    module = Encoder()
    script = check(module, calls, ({0: BATCH, 1: Dim("length", min=2, max=32)},))
    state = script.module.state_dict()
    assert state["head.weight"].data_ptr() == state["embed.weight"].data_ptr()


def test_sizes_are_not_baked() -> None:
    script = check(Mean(), rows(3, 8, 1), ({0: BATCH},))
    assert "aten::size" in str(script.module.graph)


def test_arithmetic_on_sizes() -> None:
    check(Arithmetic(), rows(4, 5, 9, columns=2), ({0: Dim("rows", min=4, max=64)},))


def test_nested_inputs_and_outputs() -> None:
    def arguments(n: int) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        return {"a": torch.randn(n, 4), "b": torch.randn(n, 6)}, [torch.randn(n, 4), torch.randn(2)]

    module, (inputs, extra) = Structured(), arguments(3)
    dynamic = {"inputs": {"a": {0: BATCH}, "b": {0: BATCH}}, "extra": [{0: BATCH}, None], "flag": None}
    script = emitted(module, (inputs,), dynamic, extra=extra, flag=True)
    assert script.arg_names == ["inputs_a", "inputs_b", "extra_0", "extra_1"]
    for n in (3, 1, 6):
        inputs, extra = arguments(n)
        assert_same(call(script, inputs, extra=extra, flag=True), module(inputs, extra=extra, flag=True))


@pytest.mark.parametrize("decomposed", [False, True])
def test_mutated_buffers_are_written_back(decomposed: bool) -> None:
    module = Counter().eval()
    program = torch.export.export(copy.deepcopy(module), (torch.randn(2, 3),))
    script = to_script(program.run_decompositions() if decomposed else program)
    for _ in range(3):
        x = torch.randn(2, 3)
        assert_same(call(script, x), module(x))
    assert_same(dict(script.module.named_buffers()), dict(module.named_buffers()))


def test_mutated_inputs_are_written_back() -> None:
    class Fills(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x.add_(1)
            return x * 2

    program = torch.export.export(Fills(), (torch.zeros(3),)).run_decompositions()
    x = torch.zeros(3)
    assert_same(call(to_script(program), x), torch.full((3,), 2.0))
    assert_same(x, torch.ones(3))


def test_conditions_keep_both_branches() -> None:
    calls = [(torch.full((n, 3), sign), torch.randn(2, 3)) for n, sign in ((2, 1.0), (3, -1.0), (5, 0.5))]
    script = check(Conditional(), calls, ({0: BATCH}, None))
    assert "prim::If" in str(script.module.graph)


def test_while_loops() -> None:
    script = check(While(), rows(2, 3), ({0: BATCH},))
    assert "prim::Loop" in str(script.module.graph)


def test_custom_operators_and_sizes_known_at_run_time_only() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2.1, 2], [3, 3, 5, 5]])
    check(Suppress(), [(boxes, torch.tensor([0.9, 0.8, 0.7])), (boxes * 3, torch.tensor([0.1, 0.8, 0.7]))], None)


@pytest.mark.parametrize("make", [Convolutional, Encoder])
def test_decomposed_programs(make: type[nn.Module]) -> None:
    module = make().eval()
    x = torch.randint(0, 50, (2, 7)) if make is Encoder else torch.randn(2, 3, 16, 20)
    program = torch.export.export(module, (x,)).run_decompositions()
    with torch.no_grad():
        assert_same(call(to_script(program), x), module(x))


def test_nodes_know_where_they_came_from() -> None:
    module = Convolutional()
    script = emitted(module, (torch.randn(2, 3, 16, 20),))
    origins = {}
    for node in script.module.graph.nodes():
        if node.hasAttribute("bridge_id"):
            origins[node.kind()] = script.provenance[node.i("bridge_id")]
            assert origins[node.kind()].operator == node.kind()
    assert origins["aten::conv2d"].module_path == "features.0"
    assert origins["aten::conv2d"].module_type == "Conv2d"
    assert origins["aten::conv2d"].source.startswith("test_exported.py:")
    assert origins["aten::conv2d"].source.endswith(" in forward")
    assert len({node.i("bridge_id") for node in script.module.graph.nodes() if node.hasAttribute("bridge_id")}) > 5


def test_save_load_and_freeze() -> None:
    module, x = Convolutional(), torch.randn(2, 3, 16, 20)
    script = emitted(module, (x,))
    buffer = io.BytesIO()
    torch.jit.save(script.module, buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    with torch.no_grad():
        assert_same(loaded(x), module(x))
        assert_same(torch.jit.freeze(loaded)(x), module(x))


def test_a_program_without_tensors_out_is_refused() -> None:
    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> None:
            return None

    with pytest.raises(ExportError, match="returns no tensor"):
        emitted(Nothing(), (torch.zeros(1),))


def test_autocast_is_refused_with_what_to_do() -> None:
    class Mixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return x @ x

    with pytest.raises(ExportError, match="run_decompositions"):
        emitted(Mixed(), (torch.zeros(2, 2),))
