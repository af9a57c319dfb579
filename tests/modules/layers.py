"""Layers of torch.nn, as traces and scripts hold them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .case import case, floats

_TWO = [(floats(3, 4, 8), floats(3, 6, 8)), (floats(2, 5, 8), floats(2, 3, 8))]


@case(_TWO, (1, 1), trace=True)
class CrossAttention(nn.Module):
    """Its weights are split: values that the exporter knows no rank of."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.attention(x, memory, memory, need_weights=False)[0]


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@case([call[:1] for call in _TWO], (1, 1), trace=True)
class EncoderOnItsFastPath(_Encoder):
    """The second layer's width follows from what the first is lowered to."""


@case([call[:1] for call in _TWO], (1, 1))
class EncoderScripted(_Encoder):
    """Holds branches for masks that are None."""


class _Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.long, self.gated, self.plain = nn.LSTMCell(8, 6), nn.GRUCell(6, 5), nn.RNNCell(5, 4)

    def forward(self, x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        hidden, cell = start.new_zeros(x.size(0), 6), start.new_zeros(x.size(0), 6)
        gated, plain = start.new_zeros(x.size(0), 5), start.new_zeros(x.size(0), 4)
        for t in range(2):
            hidden, cell = self.long(x[:, t], (hidden, cell))
            gated = self.gated(hidden, gated)
            plain = self.plain(gated, plain)
        return plain, cell


@case(_TWO, (1, 1), trace=True)
class CellsTraced(_Cells):
    """Traces hold what the cells are made of: in-place operators on pieces of their gates."""


@case(_TWO, (1, 1))
class CellsScripted(_Cells):
    """Scripts hold each cell as one operator."""


@case([(floats(2, 6),), (floats(3, 6),)], (1, 1), trace=True)
class PiecesWrittenInPlace(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second, third = (x * 2).chunk(3, 1)
        before = first + 1
        first.sigmoid_().mul_(second)
        second.add_(third, alpha=2)
        after = torch.exp(second)
        second.neg_()
        return before + after, first + second


@case([(floats(2, 6),), (floats(3, 6),)], (0, 2), trace=True)
class PiecesOfWhatIsReadElsewhere(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        whole = torch.exp(x)
        first, second = whole.chunk(2, 1)
        first.tanh_()
        return whole * 2, torch.sin(second) + torch.cos(first)


@case([(floats(2, 6),), (floats(3, 6),)], (1, 1), trace=True)
class WeightNamedAsAVariable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(floats(6))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.softmax(self.scale, -1)
        return torch.exp(x) * scale + torch.sin(scale)


def _edges(*pairs: int) -> Tensor:
    return torch.tensor(pairs).view(2, -1)


@case([(floats(4, 6), _edges(0, 1, 3, 2, 2, 0)), (floats(3, 6), _edges(0, 2, 2, 1))], (1, 1))
class GraphMessages(nn.Module):
    """Widths behind indexing, scattering and cells of any number of nodes and edges."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.update = nn.Linear(12, 6), nn.GRUCell(6, 6)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        for _ in range(2):
            sent = torch.relu(self.message(torch.cat([x[edges[0]], x[edges[1]]], 1)))
            x = self.update(torch.zeros_like(x).index_add(0, edges[1], sent), x)
        return x


@case([(floats(2, 3, 4),), (floats(1, 5, 4),)], (1, 1))
class Codebook(nn.Module):
    """Classes that are counted: the width of what is one-hot is known."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Embedding(5, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        nearest = torch.cdist(x, self.codes.weight.unsqueeze(0)).argmin(-1)
        used = nn.functional.one_hot(nearest, 5).float().mean(1)
        return self.codes(nearest), torch.exp(-(used * torch.log(used + 1e-6)).sum(-1))


@case([(floats(4, 6), torch.tensor([0, 3, 3, 1])), (floats(3, 6), torch.tensor([2, 2, 0]))], (1, 1))
class MeansBySegment(nn.Module):
    """An index that is expanded: ONNX's shape inference does not see how far."""

    def forward(self, x: Tensor, segment: Tensor) -> Tensor:
        places = segment.unsqueeze(1).expand(-1, 6)
        means = torch.zeros_like(x).scatter_reduce(0, places, torch.exp(x), "mean", include_self=False)
        return torch.sin(means) + x


@case(
    [(floats(2, 5, 8), torch.ones(2, 5, dtype=torch.int64)), (floats(3, 4, 8), _edges(*[1, 0] * 6).view(3, 4))],
    (1, 1),
    trace=True,
)
class AttentionWithAnExpandedMask(nn.Module):
    """Sizes of the mask that only a run of the model tells to be those of the keys."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 24)

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = (t.view(batch, length, 2, 4).transpose(1, 2) for t in self.project(x).chunk(3, -1))
        mask = kept[:, None, None, :].expand(batch, 1, length, length).bool()
        made = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return made.transpose(1, 2).reshape(batch, length, 8)
