"""Tensors without elements are constants; what is made of them is known before any call."""

import pytest
import torch

import bridge


class Sums(torch.nn.Module):
    def forward(self, x, nothing):
        return torch.softmax(x @ x.t(), -1) + nothing.sum() + nothing.flatten().sort().values.sum()


class Empty(torch.nn.Module):
    def forward(self, x):
        return x.exp(), x[:0].tanh()


class Resized(torch.nn.Module):
    def forward(self, x, nothing):
        grown = nothing.clone()
        grown.resize_(2)
        grown.fill_(3.0)
        return torch.softmax(x, -1) * grown.sum()


class Turned(torch.nn.Module):
    """The rotary embedding of a model that turns all of each head: the rest is joined all the same."""

    def forward(self, x):
        turned, rest = x[..., :8], x[..., 8:]
        turned = torch.cat([-turned[..., 4:], turned[..., :4]], -1)
        return torch.cat([rest, turned.sin(), rest], -1) @ x.transpose(1, 2), torch.cat([x, rest * 2], 2).exp()


class Cached(torch.nn.Module):
    """A cache that begins as a vector of nothing, as transformers' do: it takes what is given, then what is new."""

    def forward(self, x, past):
        keys = torch.cat([torch.tensor([]), past], -2)
        keys = torch.cat([keys, x.tanh()], -2)
        return torch.softmax(x @ keys.transpose(1, 2), -1) @ keys, keys


def operators(compiled):
    return [node.kind() for node in compiled.graph.nodes() if node.kind().startswith(("aten::", "bridge::"))]


@pytest.mark.parametrize("make", [torch.jit.script, None], ids=["scripted", "traced"])
@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
def test_what_is_read_of_nothing_is_folded(shape, make) -> None:
    inputs = torch.randn(3, 4), torch.randn(shape)
    module = make(Sums().eval()) if make else torch.jit.trace(Sums().eval(), inputs, check_trace=False)
    compiled = bridge.compile(module, list(inputs), backend="onnxruntime", require_full_compilation=True)
    assert operators(compiled) == ["bridge::execute_engine"]
    torch.testing.assert_close(compiled(*inputs), Sums()(*inputs))


@pytest.mark.parametrize("shape", [(2, 3), (0, 3)])
def test_empty_results(shape) -> None:
    x = torch.randn(shape)
    module = torch.jit.trace(Empty().eval(), (x,), check_trace=False)
    compiled = bridge.compile(module, [x], backend="onnxruntime", require_full_compilation=True)
    assert "aten::exp" not in operators(compiled)
    torch.testing.assert_close(compiled(x), Empty()(x))


def test_an_empty_tensor_that_grows_is_left_alone() -> None:
    x, nothing = torch.randn(2, 3), torch.empty(0)
    module = torch.jit.script(Resized().eval())
    compiled = bridge.compile(module, [x, nothing], backend="onnxruntime")
    torch.testing.assert_close(compiled(x, nothing), Resized()(x, nothing))


def test_a_size_that_may_be_zero_is_no_constant() -> None:
    spec = [bridge.Input(min_shape=(0, 3), opt_shape=(0, 3), max_shape=(4, 3))]
    compiled = bridge.compile(torch.jit.script(Empty().eval()), spec, backend="onnxruntime")
    for shape in [(0, 3), (2, 3)]:
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), Empty()(x))


@pytest.mark.parametrize("make", [torch.jit.script, None], ids=["scripted", "traced"])
def test_nothing_is_joined(make) -> None:
    module = make(Turned().eval()) if make else torch.jit.trace(Turned().eval(), torch.ones(2, 3, 8), check_trace=False)
    spec = [bridge.Input(min_shape=(1, 2, 8), opt_shape=(2, 3, 8), max_shape=(4, 5, 8))]
    compiled = bridge.compile(module, spec, backend="onnxruntime", require_full_compilation=True)
    assert operators(compiled) == ["bridge::execute_engine"]
    for shape in [(1, 2, 8), (4, 5, 8)]:
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), Turned()(x), rtol=1e-4, atol=1e-5)


def test_a_cache_begins_as_nothing() -> None:
    module = torch.jit.trace(Cached().eval(), (torch.ones(2, 1, 8), torch.ones(2, 4, 8)), check_trace=False)
    spec = [bridge.Input((2, 1, 8)), bridge.Input(min_shape=(2, 1, 8), opt_shape=(2, 4, 8), max_shape=(2, 9, 8))]
    compiled = bridge.compile(module, spec, backend="onnxruntime", require_full_compilation=True)
    assert operators(compiled) == ["bridge::execute_engine"]
    for length in (1, 9):
        inputs = torch.randn(2, 1, 8), torch.randn(2, length, 8)
        for found, expected in zip(compiled(*inputs), Cached()(*inputs), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
