"""Values, dtypes and shapes at the edges."""

import torch
import torchvision
from torch import Tensor, nn

from .case import case, floats

X, Y = floats(3, 8), floats(3, 8, seed=7)
BIG = torch.tensor([[2**40, -(2**35), 7], [5, -7, 2**33]])


@torch.library.custom_op("bridge_tests::halve", mutates_args=())
def halve(x: Tensor) -> Tensor:
    return x * 0.5


@halve.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("bridge_tests::leading", mutates_args=())
def leading(x: Tensor, most: int) -> Tensor:
    return x[x[:, 0] > 0][:most] + 0


@leading.register_fake
def _(x: Tensor, most: int) -> Tensor:
    return x.new_empty(torch.library.get_ctx().new_dynamic_size(), x.shape[1])


@case([(X,), (X.abs(),)], (1, 2), trace=True)
class CustomOperatorOfAnyLength(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.ops.bridge_tests.leading(torch.tanh(self.layer(x)) + 0.1, 9)
        return torch.softmax(self.layer(y), -1)


@case([(X,), (Y,)], (1, 3))
class NonZero(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(8, 8), nn.Linear(2, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(self.layer(x)) * 2
        found = torch.nonzero(y > 0)
        return torch.relu(self.last(found.float())) + 1, y


@case([(torch.tensor([3, 1, 3, 2]),), (torch.tensor([3, 3, 3, 3]),)], (0, 2))
class Unique(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, back = torch.unique(x, return_inverse=True)
        return torch.tanh(self.table(values)) * 2, back


@case([(X,), (Y,)], (1, 3))
class BooleanIndexing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.layer(x)) * 2
        rows = y[y.sum(1) > 0]
        return torch.softmax(self.layer(rows), -1) * 3


@case([(floats(6, 4).abs(), floats(6)), (floats(6, 4, seed=2).abs(), floats(6, seed=3))], (1, 3))
class Suppression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, sizes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        corners = torch.cumsum(sizes.view(6, 2, 2), 1).view(6, 4)
        refined = torch.relu(self.layer(corners)) + corners
        keep = torchvision.ops.nms(corners, scores, 0.3)
        return torch.tanh(self.layer(refined[keep])) * 2, keep


@case([(floats(1, 3, 8, 8), torch.tensor([[0.0, 1.0, 1.0, 6.0, 6.0], [0.0, 0.0, 0.0, 3.0, 4.0]]))] * 2, (1, 3))
class RegionPooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, image: Tensor, boxes: Tensor) -> Tensor:
        features = torch.relu(self.before(image)) * 2
        pooled = torchvision.ops.roi_align(features, boxes, (2, 2), 1.0, 2, True)
        return torch.tanh(self.after(pooled)) + 1


@case([(floats(1, 3, 6, 6),), (floats(1, 3, 6, 6, seed=4),)], (1, 3))
class Deformable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Conv2d(3, 18, 3, padding=1)
        self.weight = nn.Parameter(floats(4, 3, 3, 3))

    def forward(self, image: Tensor) -> Tensor:
        moved = torchvision.ops.deform_conv2d(image, self.offset(image) * 0.1, self.weight, padding=(1, 1))
        return torch.relu(moved) + 1


@case([(X,), (Y,)], (2, 2), trace=True)
class CustomOperator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.ops.bridge_tests.halve(torch.tanh(self.layer(x)) + 1)
        return torch.softmax(self.layer(y), -1)


@case([(X, torch.tensor([-1, 0, -3])), (Y, torch.tensor([2, -2, -1]))], (1, 2))
class NegativeIndices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        y = torch.tanh(self.layer(x)) * 2
        return torch.cat([y[rows], y[-2:], y[:, -8:-1].sum(-1, keepdim=True).expand(-1, 8), y.flip(-1)])


@case([(torch.tensor([[1.0, float("nan"), float("inf")], [0.0, -float("inf"), -2.0]]),),
       (torch.tensor([[float("nan"), -0.0, 2.0], [float("inf"), 1.0, float("nan")]]),)], (1, 2))  # fmt: skip
class NotFinite(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return (
            torch.maximum(x, -x),
            torch.isnan(x),
            torch.clamp(x, -1, 1),
            torch.nan_to_num(x) * 2,
            torch.relu(x) + x.abs(),
        )


@case([(floats(0, 8),), (floats(3, 8),)], (0, 3))
class MaybeEmpty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(self.layer(x)) * 2
        return torch.cat([y, x]), y.sum(0)


@case([(floats(0, 8),)] * 2, (0, 3))
class AlwaysEmpty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).sum(0)


@case([(torch.tensor(2.0), torch.tensor(3)), (torch.tensor(-1.5), torch.tensor(4))], (0, 2))
class ZeroDimensional(nn.Module):
    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.tanh(x) * n + 1, n * 2 + 1, (x * torch.ones(3)).exp() / n


@case(
    [(X, torch.arange(8), torch.arange(3).bool()), (Y, torch.arange(8) - 4, torch.tensor([True, False, True]))], (1, 2)
)
class MixedDtypes(nn.Module):
    def forward(self, x: Tensor, n: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return x * n + 1, n / 2 + mask.sum(), mask.unsqueeze(1) * x, n.to(torch.int32) + n


@case([(X.double(),), (Y.double(),)], (0, 1))
class Doubles(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8).double()

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x)) + 1e-12


@case([(X,), (Y,)], (1, 3))
class DoubleInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.layer(x)) * 2
        z = torch.cumsum(y.double(), 0).sum(1)
        return torch.softmax(self.layer(y + z.float().unsqueeze(1)), -1)


@case([(BIG,), (BIG - 3,)], (0, 2))
class LongIntegers(nn.Module):
    def forward(self, n: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return n * 2 + 1, n // 3, n % 5, torch.clamp(n, -(2**34), 2**34) - 2**40


@case([(X,), (Y,)], (1, 1))
class ConstantsFold(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.scale = 3

    def forward(self, x: Tensor) -> Tensor:
        table = torch.arange(8, dtype=torch.float32) * self.scale + torch.ones(8)
        return torch.tanh(self.layer(x)) * table + torch.eye(8)[:3]


@case([(floats(2, 6, 8),), (floats(3, 4, 8),), (floats(1, 10, 8),)], (1, 1))
class ShapeArithmetic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        y = torch.tanh(self.layer(x.view(b, n // 2, 2, c // 4, 4)))
        y = y.permute(0, 2, 1, 3, 4).reshape(b * 2, -1, c)
        return y * (1.0 / float(n)) + torch.arange(n // 2).view(1, -1, 1) + torch.zeros(b * 2, n // 2, c)


@case([(floats(2, 6, 8),), (floats(3, 4, 8),)], (1, 1), trace=True)
class TracedShapes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.layer(x))
        y = y.reshape(x.shape[0] * x.shape[1], 8) / x.shape[1]
        return torch.cat([y, torch.ones(x.shape[0], 8)])


@case([(X,), (Y.half(),), (X,)], (1, 1), precision=torch.half, tolerance=2e-2)
class HalfPrecision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x)) * 2


@case([(X,), (Y,)], (1, 3), precision=torch.half, tolerance=2e-2)
class HalfBetweenEngines(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.layer(x)) * 2
        rows = y[y.sum(1) > -100]
        return torch.relu(self.layer(rows)) + torch.sigmoid(self.layer(x)).sum()


@case([(X,), (Y,)], (1, 2))
class SortsAndSearches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.tanh(self.layer(x)) * 2
        values, order = torch.sort(y, dim=1, descending=True)
        places = torch.searchsorted(values.flip(1), x)
        return torch.linalg.svdvals(y), order, places


@case([(X,), (Y,)], (1, 3))
class ItemsAsNumbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.layer(x)) * 2
        width = int(y.abs().sum().item()) % 4 + 1
        scale = float(y.max())
        return torch.relu(self.layer(y)).narrow(1, 0, width) * scale


@case([(floats(2, 9, 4),), (floats(3, 9, 4, seed=1),)], (1, 1))
class Pooled(nn.Module):
    """All tokens but the first, which is cut off and put back, as MViT does it."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.norm = nn.Conv2d(4, 4, 3, 2, 1), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        first, rest = torch.tensor_split(x.unsqueeze(1), [1], 2)
        rest = rest.transpose(2, 3)
        batch, heads, channels = rest.shape[:3]
        rest = self.pool(rest.reshape(batch * heads, channels, 2, 4).contiguous())
        return self.norm(torch.cat((first, rest.reshape(batch, heads, channels, -1).transpose(2, 3)), 2)).squeeze(1)
