"""One step of a recurrent network: torch.nn's LSTMCell, GRUCell and RNNCell."""

from __future__ import annotations

from typing import Any

from rewrites import example, lowering

_STATE = {"hx": (2, 3)}


def _weights(gates: int) -> dict[str, tuple[int, ...]]:
    """Of a cell of four inputs and three states."""
    rows = 3 * gates
    return {"w_ih": (rows, 4), "w_hh": (rows, 3), "b_ih": (rows,), "b_hh": (rows,)}


def _product(x: Any, weight: Any, bias: Any) -> Any:
    from torch.nn import functional as F

    return F.linear(x, weight, bias)


@lowering(
    "aten::lstm_cell",
    examples=[
        example(input=(2, 4), hx=[(2, 3), (2, 3)], **_weights(4)),
        example(input=("n", 4), hx=[("n", 3), ("n", 3)], w_ih=(12, 4), w_hh=(12, 3)),
    ],
)
def lstm_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    """lstm_cell -> Gemm Add Sigmoid Tanh.

    Source: PyTorch's documentation of torch.nn.LSTMCell.
    """
    gates = _product(input, w_ih, b_ih) + _product(hx[0], w_hh, b_hh)
    entering, forgetting, new, leaving = gates.chunk(4, -1)
    cell = forgetting.sigmoid() * hx[1] + entering.sigmoid() * new.tanh()
    return leaving.sigmoid() * cell.tanh(), cell


@lowering(
    "aten::gru_cell",
    examples=[
        example(input=(2, 4), **_STATE, **_weights(3)),
        example(input=("n", 4), hx=("n", 3), w_ih=(9, 4), w_hh=(9, 3)),
    ],
)
def gru_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    """gru_cell -> Gemm Add Sigmoid Tanh.

    Source: PyTorch's documentation of torch.nn.GRUCell.
    """
    given, kept = _product(input, w_ih, b_ih).chunk(3, -1), _product(hx, w_hh, b_hh).chunk(3, -1)
    reset, update = (given[0] + kept[0]).sigmoid(), (given[1] + kept[1]).sigmoid()
    new = (given[2] + reset * kept[2]).tanh()
    return new + update * (hx - new)


_CELL = [
    example(input=(2, 4), **_STATE, **_weights(1)),
    example(input=("n", 4), hx=("n", 3), w_ih=(3, 4), w_hh=(3, 3)),
]


@lowering("aten::rnn_tanh_cell", examples=_CELL)
def rnn_tanh_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    """rnn_tanh_cell -> Gemm Add Tanh.

    Source: PyTorch's documentation of torch.nn.RNNCell.
    """
    return (_product(input, w_ih, b_ih) + _product(hx, w_hh, b_hh)).tanh()


@lowering("aten::rnn_relu_cell", examples=_CELL)
def rnn_relu_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    """rnn_relu_cell -> Gemm Add Relu.

    Source: PyTorch's documentation of torch.nn.RNNCell.
    """
    return (_product(input, w_ih, b_ih) + _product(hx, w_hh, b_hh)).relu()
