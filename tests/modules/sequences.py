"""Recurrent networks, decoders and searches."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .case import case, floats

WORDS, OTHERS = torch.tensor([[1, 2, 3, 4], [4, 0, 2, 1]]), torch.tensor([[5, 6, 7], [0, 1, 2]])


@case([(WORDS,), (OTHERS,)], (1, 1))
class LongShortTerm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.rnn, self.head = (
            nn.Embedding(9, 6),
            nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True),
            nn.Linear(10, 3),
        )

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        found, (hidden, _) = self.rnn(self.table(words))
        return torch.log_softmax(self.head(found), -1), hidden


@case([(floats(4, 2, 6), floats(1, 2, 5)), (floats(7, 2, 6), floats(1, 2, 5, seed=1))], (1, 1))
class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(6, 5)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        out, last = self.rnn(x, state)
        return torch.tanh(out) * 2, last


@case(
    [
        (floats(2, 4, 6), floats(4, 2, 3), floats(4, 2, 5)),
        (floats(3, 5, 6), floats(4, 3, 3, seed=1), floats(4, 3, 5, seed=1)),
    ],
    (1, 1),
)
class Projected(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True, proj_size=3)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found, (hidden, cell) = self.rnn(x, (hidden, cell))
        return found, hidden, cell


@case([(floats(2, 4, 6), torch.tensor([4, 2])), (floats(2, 4, 6, seed=2), torch.tensor([3, 1]))], (0, 3))
class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True)
        out, _ = self.rnn(packed)
        padded, _ = pad_packed_sequence(out, batch_first=True)
        return torch.softmax(self.head(padded), -1) * 2


@case([(torch.tensor([[1]]),), (torch.tensor([[5]]),)], (1, 3))
class GreedyDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.cell, self.head = nn.Embedding(9, 6), nn.GRUCell(6, 6), nn.Linear(6, 9)

    def forward(self, start: Tensor) -> Tensor:
        words, state = start, torch.zeros(1, 6)
        for _ in range(12):
            state = self.cell(self.table(words[:, -1]), state)
            best = self.head(state).argmax(-1, keepdim=True)
            words = torch.cat([words, best], 1)
            if bool((best == 0).all()):
                break
        return words


@case([(floats(1, 6),), (floats(1, 6, seed=8),)], (1, 3))
class BeamSearch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.cell, self.head = nn.Embedding(9, 6), nn.GRUCell(6, 6), nn.Linear(6, 9)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        beams = torch.zeros(3, 1, dtype=torch.int64)
        scores = torch.tensor([0.0, -1e9, -1e9])
        states = state.expand(3, 6)
        for _ in range(5):
            states = self.cell(self.table(beams[:, -1]), states)
            total = scores.unsqueeze(1) + torch.log_softmax(self.head(states), -1)
            scores, flat = total.view(-1).topk(3)
            origin = torch.div(flat, 9, rounding_mode="floor")
            beams = torch.cat([beams[origin], (flat % 9).unsqueeze(1)], 1)
            states = states[origin]
            if bool((beams[:, -1] == 0).all()):
                break
        return beams, scores


@case([(floats(7, 5),), (floats(4, 5, seed=3),)], (1, 2))
class CtcDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 4)

    def forward(self, frames: Tensor) -> tuple[list[int], Tensor]:
        scores = torch.log_softmax(self.layer(frames), -1)
        best = scores.argmax(-1)
        labels: list[int] = []
        last = -1
        for i in range(best.size(0)):
            label = int(best[i])
            if label != last and label != 0:
                labels.append(label)
            last = label
        return labels, scores


@case([(floats(5, 6),), (floats(3, 6, seed=3),)], (1, 4))
class TransducerDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.table, self.cell = nn.Linear(6, 6), nn.Embedding(5, 6), nn.LSTMCell(6, 6)
        self.joint = nn.Linear(12, 5)

    def forward(self, frames: Tensor) -> list[int]:
        encoded = torch.tanh(self.encoder(frames))
        labels: list[int] = []
        hidden, cell = torch.zeros(1, 6), torch.zeros(1, 6)
        hidden, cell = self.cell(self.table(torch.zeros(1, dtype=torch.int64)), (hidden, cell))
        for t in range(encoded.size(0)):
            emitted = 0
            while emitted < 3:
                scores = self.joint(torch.cat([encoded[t : t + 1], hidden], 1))
                best = int(scores.argmax(-1))
                if best == 0:
                    break
                labels.append(best)
                hidden, cell = self.cell(self.table(torch.tensor([best])), (hidden, cell))
                emitted += 1
        return labels


@case(
    [
        (floats(4, 6), torch.tensor([[0, 1], [4, 2], [5, 3]])),
        (floats(4, 6, seed=1), torch.tensor([[2, 3], [0, 4], [5, 1]])),
    ],
    (0, 1),
)
class TreeStructured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.merge = nn.Linear(12, 6)

    def forward(self, leaves: Tensor, merges: Tensor) -> Tensor:
        nodes: list[Tensor] = []
        for leaf in leaves:
            nodes.append(leaf)
        for i in range(merges.size(0)):
            left, right = nodes[int(merges[i][0])], nodes[int(merges[i][1])]
            nodes.append(torch.tanh(self.merge(torch.cat([left, right]))))
        return nodes[-1] * 2


@case([(floats(1, 1, 8), 4), (floats(1, 1, 8, seed=6), 4)], (1, 3))
class CacheLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 24)

    def forward(self, x: Tensor, steps: int) -> Tensor:
        keys: list[Tensor] = []
        values: list[Tensor] = []
        out = x
        while len(keys) < steps and bool(out.norm() > 0):
            query, key, value = self.project(out).chunk(3, -1)
            keys.append(key)
            values.append(value)
            scores = torch.softmax(query @ torch.cat(keys, 1).transpose(1, 2), -1)
            out = scores @ torch.cat(values, 1)
        return out


@case([(floats(2, 5, 8), torch.tensor([5, 3])), (floats(3, 4, 8), torch.tensor([4, 1, 2]))], (1, 3))
class MaskedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        padded = torch.arange(x.size(1)).unsqueeze(0) >= lengths.unsqueeze(1)
        out, _ = self.attention(x, x, x, key_padding_mask=padded, need_weights=False)
        return torch.tanh(out) * 2
