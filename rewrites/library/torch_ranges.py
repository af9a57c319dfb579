"""Numbers at equal distances, as many as is known when the model runs."""

from __future__ import annotations

from rewrites import example, lowering, require


@lowering(
    "aten::linspace",
    examples=[
        example(start=-1.0, end=1.0, steps=7),
        example(start=0.5, end=-9.5, steps=6),
        example(start=2, end=3, steps=1),
    ],
)
def linspace(start, end, steps, *, dtype=None, layout=None, device=None, pin_memory=None):
    """linspace -> Range Mul Add Where: from the start up to the middle, from the end down to it; bounds may vary.

    Source: PyTorch's RangeFactoriesKernel.cpp, which counts from both ends, so that both are exact.
    """
    import torch

    kind = dtype or torch.float32
    require(kind in (torch.float32, torch.float16, torch.bfloat16), "floating-point numbers only")
    place = torch.arange(steps)
    first, last = (torch.as_tensor(bound).to(torch.float32) for bound in (start, end))
    behind = (steps - 1 - place).to(torch.float32)
    step = (last - first) / torch.as_tensor(steps - 1).clamp(min=1)
    return torch.where((place < behind) | (place == 0), first + step * place, last - step * behind).to(kind)
