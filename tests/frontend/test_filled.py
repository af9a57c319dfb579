"""Tensors that are filled piece by piece with constants: in the engine as constants, and only where that is right."""

from __future__ import annotations

import pytest
import torch

import bridge
from bridge.runtime.calls import engine_calls


class Windows(torch.nn.Module):
    """A mask drawn as Swin draws it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = x.new_zeros((6, 6))
        count = 0.0
        for rows in ((0, 3), (3, 5), (5, 6)):
            for columns in ((0, 3), (3, 5), (5, 6)):
                mask[rows[0] : rows[1], columns[0] : columns[1]] = count
                count += 1.0
        drawn = mask.reshape(1, 36)
        apart = drawn.unsqueeze(1) - drawn.unsqueeze(2)
        apart = apart.masked_fill(apart != 0, -100.0).masked_fill(apart == 0, 0.0)
        return (x.flatten(1).unsqueeze(1) + apart).softmax(-1)


class SeveralWindows(torch.nn.Module):
    """Masks of windows in two sizes, each layer's drawn before it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Windows(), Windows()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + self.second(x + 1)


class WindowsOfPadded(torch.nn.Module):
    """A mask as large as the padded image, in as many rows as it has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(x, (0, 1, 1, 0))
        mask = x.new_zeros((padded.shape[2], padded.shape[3]))
        mask[:2, :-2] = 1.0
        mask[2:, -2:] = 2.0
        return padded.reshape(x.shape[0], -1, padded.shape[2] * padded.shape[3]) + mask.reshape(1, 1, -1)


class ReadBetween(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(6, 6)
        mask[:2] = 1.0
        first = x * mask
        mask[4:] = 2.0
        return first + x * mask


class Given(torch.nn.Module):
    """What is filled is a result: another tensor in every call."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mask = torch.zeros(6, 6)
        mask[1:3] = 1.0
        return x * mask, mask


class FilledWithData(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(6, 6)
        mask[:2] = 1.0
        mask[2:3] = x[0, :1]
        return x * mask


class FilledInABranch(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(6, 6)
        mask[:2] = 1.0
        if bool(x.sum() > 0):
            mask[3:] = 3.0
        return x * mask


def _compiled(module: torch.nn.Module, x: torch.Tensor) -> torch.nn.Module:
    return bridge.compile(torch.jit.script(module.eval()), [x], backend="onnxruntime")


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", [Windows, SeveralWindows])
def test_masks_of_windows_are_constants_of_one_engine(kind: type[torch.nn.Module], dtype: torch.dtype) -> None:
    x = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    traced = torch.jit.trace(kind(), x, check_trace=False)
    compiled = bridge.compile(traced, [x], backend="onnxruntime", require_full_compilation=True)
    torch.testing.assert_close(compiled(x), kind()(x), rtol=1e-3, atol=1e-5 if dtype == torch.float32 else 1e-3)
    names = [node.op_type for node in bridge.to_onnx(traced, [x]).graph.node]
    assert "ScatterND" not in names and "ScatterElements" not in names and len(engine_calls(compiled)) == 1


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_sizes_after_padding_never_vary_where_the_batch_does() -> None:
    module, x = WindowsOfPadded(), torch.randn(2, 3, 4, 5)
    traced = torch.jit.trace(module, x, check_trace=False)
    ranges = bridge.Input(min_shape=(1, 3, 4, 5), opt_shape=x.shape, max_shape=(4, 3, 4, 5))
    operators = [node.op_type for node in bridge.to_onnx(traced, [ranges]).graph.node]
    assert not {"Range", "ScatterND", "Where", "ConstantOfShape"}.intersection(operators)
    compiled = bridge.compile(traced, [ranges], backend="onnxruntime")
    for batch in (1, 3):
        given = torch.randn(batch, 3, 4, 5)
        torch.testing.assert_close(compiled(given), module(given))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", [ReadBetween, FilledWithData, FilledInABranch])
def test_what_is_read_or_written_otherwise_is_right(kind: type[torch.nn.Module]) -> None:
    generator = torch.Generator().manual_seed(0)
    compiled = _compiled(kind(), torch.randn(6, 6, generator=generator))
    for sign in (1, -1):
        x = sign * torch.rand(6, 6, generator=generator)
        torch.testing.assert_close(compiled(x), kind()(x))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_result_is_a_new_tensor_in_every_call() -> None:
    x = torch.ones(6, 6)
    compiled = _compiled(Given(), x)
    compiled(x)[1].fill_(7.0)
    for found, expected in zip(compiled(x), Given()(x), strict=True):
        torch.testing.assert_close(found, expected)
