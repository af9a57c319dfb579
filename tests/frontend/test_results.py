"""`require_full_compilation=True` returns new tensors; by default results share memory as they do in PyTorch."""

import pytest
import torch

import bridge


class Views(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.arange(3.0))

    def forward(self, x):
        first, second = x.split(1)
        y = x.relu()
        return x, x.view(-1), x.t(), torch.zeros(2), self.steps, (first, [second, second]), y, y, y.view(-1)


class WritesItsInput(torch.nn.Module):
    def forward(self, x):
        x.add_(1)
        return x.view(-1)


def leaves(results):
    return torch.utils._pytree.tree_leaves(results)


def traced(module, *inputs):
    return torch.jit.trace(module.eval(), inputs, check_trace=False)


@pytest.mark.parametrize("shape", [(2, 3), (2, 5)])
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: traced(m, torch.randn(2, 3))], ids=["scripted", "traced"])
def test_one_engine_gives_every_result_anew(make, shape) -> None:
    x = torch.randn(shape)
    spec = [bridge.Input(min_shape=(2, 1), opt_shape=(2, 3), max_shape=(2, 8))]
    compiled = bridge.compile(make(Views().eval()), spec, backend="onnxruntime", require_full_compilation=True)
    operators = [node.kind() for node in compiled.graph.nodes() if node.kind().startswith(("aten::", "bridge::"))]
    assert operators == ["bridge::execute_engine"]
    results = compiled(x)
    torch.testing.assert_close(results, Views()(x))
    for result in leaves(results):
        result.fill_(7)
    torch.testing.assert_close(compiled(x), Views()(x))
    assert not torch.equal(x, torch.full_like(x, 7))


def test_by_default_parts_of_an_input_stay_parts_of_it() -> None:
    class Parts(torch.nn.Module):
        def forward(self, x):
            first, second = x.split(1)
            return first, torch.softmax(second @ second.t(), -1)

    x = torch.randn(2, 3)
    first, _ = bridge.compile(traced(Parts(), x), [x], backend="onnxruntime")(x)
    first.fill_(7)
    assert torch.equal(x[0], torch.full((3,), 7.0))


def test_writing_into_an_input_is_still_refused_with_its_line() -> None:
    x = torch.randn(2, 3)
    with pytest.raises(bridge.UnsupportedOperatorError, match="aten::add_, aten::view") as refused:
        bridge.compile(traced(WritesItsInput(), x), [x], backend="onnxruntime", require_full_compilation=True)
    assert "test_results.py" in str(refused.value) and "aten::clone" not in str(refused.value)
