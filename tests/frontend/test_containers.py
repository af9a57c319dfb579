"""Lists and dictionaries that a scripted module fills step by step: in one engine where their contents are known."""

import pytest
import torch

import bridge


class Appended(torch.nn.Module):
    def forward(self, x):
        parts = [x]
        for _ in range(3):
            parts.append(torch.relu(torch.cat(parts)))
        parts.insert(0, x * 2)
        parts.extend([x, x + 1])
        parts[1] = parts[-1] * len(parts)
        return torch.cat(parts)


class Keyed(torch.nn.Module):
    def forward(self, x):
        found: dict[str, torch.Tensor] = {}
        found["a"] = torch.exp(x)
        found["b"] = found["a"].relu_() + 1
        found["a"] = found["a"] * found["b"]
        return torch.cat(list(found.values())) + (1 if "c" in found else 2)


class Numbers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = [3, 3]

    def forward(self, x):
        shift = self.shift.copy()
        shift[0] = 1
        return torch.roll(x, shift, dims=[0, 1]).tanh() * sum(shift)


class Divided(torch.nn.Module):
    """Lists that operators make, copied and filled: how a YOLO's stages keep what they will put together."""

    def forward(self, x):
        parts = list(x.chunk(2, 1))
        for _ in range(2):
            parts.append(parts[-1].sin() + parts[0])
        parts.reverse()
        parts += [torch.split(x, [3, 5], 1)[1], x.unbind(1)[2].unsqueeze(1)]
        parts.extend(x.split(3, 1))
        kept = [x]
        for part in x.split(4, 1):
            kept = kept + [part * len(kept)]  # noqa: RUF005
        return torch.cat(parts, 1), torch.cat(kept, 1)


class Cropped(torch.nn.Module):
    """The middle of an image: sizes that are parts of a shape."""

    def forward(self, x):
        x = x.view(x.size(0), 2, 4)
        h, w = x.shape[-2:]
        b, h2 = x.shape[:2]
        side = min(h, w, b + 1)
        top, left = (h - side) // 2, (x.shape[1:][-1] - side) // 2
        y = x[..., top : top + side, left : left + side]
        return y.exp().flatten(1).sum(1), x.tanh() * len(x.shape[1:]) + h2 + x.shape[1:][0]


class DividedAnyhow(torch.nn.Module):
    """As many parts as there are rows."""

    def forward(self, x):
        parts = list(x.unbind(0))
        parts.append(x.sum(0).exp())
        return torch.stack(parts).tanh()


class Shared(torch.nn.Module):
    """A list kept elsewhere before it grows: both must see it."""

    def forward(self, x):
        inner = [x.exp()]
        outer = [inner]
        for _ in range(x.size(0)):
            inner.append(x.tanh())
        return torch.cat(outer[0]), len(inner)


class Sometimes(torch.nn.Module):
    def forward(self, x):
        parts = [x.exp(), x + 1]
        if bool(x.sum() > 0):
            parts.append(x.tanh())
        parts.append(x * 3)
        return torch.cat(parts)


class Popped(torch.nn.Module):
    def forward(self, x):
        parts = [x.exp(), x.tanh()]
        parts.append(x)
        last = parts.pop()
        return torch.cat(parts) + last.sum(), parts


def fitted(window: list[int], shift: list[int], size: list[int]) -> tuple[list[int], list[int]]:
    for i in range(2):
        if size[i] <= window[i]:
            window[i] = size[i]
            shift[i] = 0
    return window, shift


class ReadBetween(torch.nn.Module):
    """Elements that a branch, or a turn of a loop, changed before they are read."""

    def forward(self, x):
        parts = [x, x + 1, x + 2]
        first = parts[0]
        if bool(x.sum() > 0):
            parts[0] = parts[-1] * 2
        total = parts[0] + parts[1] + first
        for _ in range(int(x.abs().sum()) % 3 + 1):
            total = total + parts[1]
            parts[1] = parts[1] * parts[2]
        return total + parts[1]


class Fitted(torch.nn.Module):
    """Windows that are not larger than what a convolution leaves of the image, as video transformers fit them."""

    def __init__(self):
        super().__init__()
        self.cut, self.window, self.shift = torch.nn.Conv2d(3, 4, 2, 2), [4, 3], [2, 1]

    def forward(self, x):
        x = self.cut(x)
        window, shift = fitted(self.window.copy(), self.shift.copy(), [x.shape[2], x.shape[3]])
        if sum(shift) > 0:
            x = torch.roll(x, [-shift[0], -shift[1]], [2, 3])
        rows, columns = x.shape[2] // window[0], x.shape[3] // window[1]
        return x.reshape(x.shape[0], 4, rows, window[0], columns, window[1]).softmax(3)


class SplitAtPlaces(torch.nn.Module):
    def forward(self, x):
        first, second, third = torch.tensor_split(x, [2, -3], 1)
        return torch.cat((third * 2, second.exp(), first), 1)


INPUTS = (torch.randn(4, 3).abs(), -torch.randn(4, 3).abs())


@pytest.mark.parametrize("make", [Appended, Keyed, Numbers])
def test_what_is_known_is_one_engine(make) -> None:
    module = torch.jit.script(make().eval())
    compiled = bridge.compile(module, [(4, 3)], backend="onnxruntime", require_full_compilation=True)
    for x in INPUTS:
        torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize(("make", "engines"), [(Divided, 1), (Cropped, 1), (SplitAtPlaces, 1), (DividedAnyhow, None)])
def test_lists_that_operators_make(make, engines) -> None:
    module = torch.jit.script(make().eval())
    rows = bridge.Input(min_shape=(1, 8), opt_shape=(4, 8), max_shape=(6, 8))
    compiled = bridge.compile(module, [rows], backend="onnxruntime", require_full_compilation=engines == 1)
    assert engines is None or len(bridge.inspect(compiled, layers=False).engines) == engines
    for count in (1, 4, 6):
        x = torch.randn(count, 8)
        torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize("size", [(8, 12), (16, 6), (16, 12), (4, 4)])
def test_lists_that_branches_on_their_elements_change(size) -> None:
    module = torch.jit.script(Fitted().eval())
    images = bridge.Input(min_shape=(1, 3, *size), opt_shape=(2, 3, *size), max_shape=(3, 3, *size))
    compiled = bridge.compile(module, [images], backend="onnxruntime", require_full_compilation=True)
    for count in (1, 3):
        x = torch.randn(count, 3, *size)
        torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize("make", [Shared, Sometimes, Popped, ReadBetween])
def test_what_is_not_known_stays_as_it_is(make) -> None:
    module = torch.jit.script(make().eval())
    compiled = bridge.compile(module, [(4, 3)], backend="onnxruntime")
    for x in INPUTS:
        torch.testing.assert_close(compiled(x), module(x))
