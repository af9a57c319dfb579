"""LSTMs with projections, which neither exporter nor ONNX's operator knows."""

from __future__ import annotations

from typing import Any

from rewrites import example, lowering, require

_SETTINGS = {"num_layers": 1, "dropout": 0.0, "train": False, "bidirectional": False, "batch_first": False}


def _weights(inputs: int, biased: bool = True) -> list[tuple[int, ...]]:
    """Of a layer of three states, projected to two."""
    biases = [(12,), (12,)] if biased else []
    return [(12, inputs), (12, 2), *biases, (2, 3)]


@lowering(
    "aten::lstm.input",
    examples=[
        example(input=(4, 2, 5), hx=[(1, 2, 2), (1, 2, 3)], params=_weights(5), has_biases=True, **_SETTINGS),
        example(
            input=("n", "t", 5),
            hx=[(4, "n", 2), (4, "n", 3)],
            params=2 * _weights(5, biased=False) + 2 * _weights(4, biased=False),
            has_biases=False,
            **{**_SETTINGS, "num_layers": 2, "bidirectional": True, "batch_first": True},
        ),
    ],
    refuses=[
        example(
            input=(4, 2, 5),
            hx=[(1, 2, 2), (1, 2, 3)],
            params=_weights(5),
            has_biases=True,
            **{**_SETTINGS, "dropout": 0.5, "train": True},
            because="dropout",
        )
    ],
    static={"params": None},
)
def lstm(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first):
    """lstm with projections -> LSTM MatMul: what is projected is only ever read by matrices.

    A step reads W_hh W_hr m, where m came out of the last step before its projection W_hr: an LSTM of W_hh W_hr. The
    first step reads the first state instead, which is given as further inputs.

    Source: PyTorch's documentation of torch.nn.LSTM.
    """
    import torch

    ways = 2 if bidirectional else 1
    each = len(params) // (num_layers * ways)
    require(each == (5 if has_biases else 3), "only LSTMs with projections are lowered")
    require(not (train and dropout), "dropout is active")
    sequence = input.transpose(0, 1) if batch_first else input
    ends = []
    for layer in range(num_layers):
        first = layer * ways
        held = [params[(first + way) * each : (first + way + 1) * each] for way in range(ways)]
        sequence, *end = _layer(sequence, hx[0][first : first + ways], hx[1][first : first + ways], held, has_biases)
        ends.append(end)
    output = sequence.transpose(0, 1) if batch_first else sequence
    return output, torch.cat([end[0] for end in ends]), torch.cat([end[1] for end in ends])


def _layer(sequence: Any, state: Any, cell: Any, held: Any, has_biases: bool) -> Any:
    """One layer in one or both directions: the sequence (time, batch, states), and the last states and cells."""
    import torch

    turns, ways = torch.arange(sequence.shape[0]).reshape(-1, 1, 1), len(held)
    starts = [turns == 0, turns == sequence.shape[0] - 1][:ways]
    nothing = torch.zeros_like(state[:1])
    given = [sequence, *(torch.where(at, one, nothing) for at, one in zip(starts, state.split(1), strict=True))]
    weights: list[Any] = []
    for way, (w_ih, w_hh, *biases, w_hr) in enumerate(held):
        blocks = [w_hh if other == way else torch.zeros_like(w_hh) for other in range(ways)]
        weights += [torch.cat([w_ih, *blocks], 1), w_hh @ w_hr, *biases]
    zeros = torch.zeros_like(cell)
    made, last, ended = torch.lstm(
        torch.cat(given, -1), (zeros, cell), weights, has_biases, 1, 0.0, False, ways == 2, False
    )
    projections = [one[-1] for one in held]
    parts = [part @ w.T for part, w in zip(made.chunk(ways, -1), projections, strict=True)]
    lasts = [part @ w.T for part, w in zip(last.split(1), projections, strict=True)]
    return torch.cat(parts, -1), torch.cat(lasts), ended
