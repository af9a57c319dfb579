"""Padding that goes round: the exporter takes its axes for those of a batch, and breaks where there is none."""

from __future__ import annotations

from rewrites import example, lowering, require


@lowering(
    "aten::pad",
    examples=[
        example(self=(3, 4, 5), pad=[1, 2, 2, 1], mode="circular"),
        example(self=("n", 4), pad=[2, 0], mode="circular"),
        example(self=(2, 3, 4, 4), pad=[-1, 1, -2, 1], mode="circular"),
    ],
    refuses=[example(self=(2, 3, 4), pad=[1, 1], mode="reflect", because="goes round")],
)
def pad(x, pad, mode="constant", value=None):
    """pad that goes round -> Slice Concat: one axis after the other, cropped before it is continued."""
    import torch

    require(mode == "circular" and value is None, "only padding that goes round")
    for i in range(len(pad) // 2):
        axis = x.dim() - 1 - i
        before, after = pad[2 * i], pad[2 * i + 1]
        size = x.shape[axis]
        if min(before, after) < 0:
            kept = size + min(before, 0) + min(after, 0)
            x = x.narrow(axis, max(-before, 0), kept)
            size = kept
        parts = [x.narrow(axis, size - before, before)] if before > 0 else []
        parts += [x, *([x.narrow(axis, 0, after)] if after > 0 else [])]
        x = torch.cat(parts, axis)
    return x
