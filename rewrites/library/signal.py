"""Short-time transforms and mel weights."""

from __future__ import annotations

import functools
import math

import numpy as np

from rewrites import example, require, rule, tensor
from rewrites.evaluating import evaluate
from rewrites.library.fft import fourier_matrix

_NEEDED = {"tensorrt": "all versions"}


@rule(
    name="onnx/stft-of-a-plain-signal",
    matches="STFT",
    needed_by={"any": "all versions"},
    opsets=(17, 10**6),
    priority=-2,
    examples=[
        example(signal=(1, 40), frame_step=np.array(4), frame_length=np.array(8), onesided=1, _builds=False),
        example(signal=("n", 40), frame_step=np.array(4), frame_length=np.array(8), onesided=0, _builds=False),
    ],
)
class StftOfPlainSignal:
    """STFT -> Unsqueeze STFT: the last axis, which says that the signal is real, is there.

    Source: the ONNX specification of STFT asks for it; torch.onnx leaves it out.
    """

    def applies(signal):
        return signal.rank == 2

    def rewrite(op, node, signal):
        return op.STFT(op.Unsqueeze(signal, [2]), *node.inputs[1:], **node.given)


@rule(
    name="onnx/stft-to-conv",
    matches="STFT",
    needed_by=_NEEDED,
    opsets=(17, 10**6),
    priority=-1,
    examples=[
        example(signal=(1, 40, 1), frame_step=np.array(4), frame_length=np.array(8), onesided=1),
        example(
            text="g (float[n,l,1] x, float[8] w) => (float[n,f,5,2] y) {"
            " step = Constant<value_int = 3>() y = STFT<onesided = 1>(x, step, w) }",
            _sizes={"l": 30},
        ),
        example(signal=("batch", 32, 2), frame_step=np.array(5), frame_length=np.array(6), onesided=0),
    ],
    refuses=[example(signal=(1, 40, 1), frame_step=np.array(4), frame_length=np.array(8), because="one-sided")],
)
class StftToConv:
    """STFT -> Conv: each frequency is a kernel of cosines and sines that moves by the frame step.

    Source: the ONNX specification of STFT, opset 17; onnx-tensorrt wants initializers and a static length.
    """

    def applies(frame_step, frame_length, window):
        return frame_step.constant is not None and known_length(frame_length, window) is not None

    def check(node, signal, window, frame_length, onesided):
        length, declared = known_length(frame_length, window), node.outputs[0].dims
        require(signal.shape.is_static(-1), "the last axis must be 1 (real) or 2 (complex)")
        require(length <= 4096, "frames of more than 4,096 points need a fast transform")
        kept = length // 2 + 1 if onesided else length
        agrees = declared is None or not declared.is_static(2) or declared[2] == kept
        require(agrees, "the declared shape is not one-sided: give onesided explicitly, ONNX's inference errs without")

    def rewrite(op, node, signal, frame_step, window, frame_length, onesided):
        length, parts = known_length(frame_length, window), signal.shape[-1]
        matrix = fourier_matrix(length, length, parts, False, onesided)
        kernel = matrix.reshape(length, parts, -1).transpose(2, 1, 0).astype(signal.dtype)
        weights = kernel if window is None else op.Mul(kernel, op.Reshape(window, [1, 1, length]))
        spectrum = op.Conv(op.Transpose(signal, perm=[0, 2, 1]), weights, strides=[int(frame_step)])
        pairs = op.Reshape(spectrum, [0, kernel.shape[0] // 2, 2, -1])
        return op.Transpose(pairs, perm=[0, 3, 1, 2])


def known_length(frame_length, window):
    """The length of a frame when it is known before run time."""
    if frame_length is not None and frame_length.constant is not None:
        return int(frame_length)
    return window.shape[0] if window is not None and window.shape.is_static() else None


@rule(
    name="onnx/stft-to-gather",
    matches="STFT",
    needed_by=_NEEDED,
    opsets=(17, 10**6),
    examples=[
        example(
            text="g (float[1,32,1] x, int64 step, int64 length) => (float[1,7,5,2] y) { y = STFT(x, step, , length) }",
            step=tensor(values=4, dtype="int64"), length=tensor(values=8, dtype="int64"),
        ),
        example(
            text="g (float[n,30,1] x, int64 step, float[8] w) => (float[n,8,5,2] y) { y = STFT(x, step, w) }",
            step=tensor(values=3, dtype="int64"),
        ),
    ],
    refuses=[
        example(
            text="g (float[1,l,1] x, int64 step, float[8] w) => (float[1,f,5,2] y) { y = STFT(x, step, w) }",
            because="static",
        )
    ],
)  # fmt: skip
class StftToGather:
    """STFT with sizes of run time -> Gather Cos Sin MatMul: frames are gathered and multiplied by a matrix made there.

    Source: the ONNX specification of STFT, opset 17.
    """

    def check(node, signal, onesided):
        require(signal.shape[1:].is_static() and signal.shape[2] == 1, "the signal must be real and its length static")
        require(node.outputs[0].shape[1:].is_static() and onesided, "frames and frequencies must be static, one-sided")

    def rewrite(op, node, signal, frame_step, window, frame_length):
        frames, kept = node.outputs[0].shape[1:3]
        known = known_length(frame_length, window)
        points, dtype = known or 2 * kept - 1, signal.dtype
        length = float(known) if known else op.Cast(op.Reshape(frame_length, [1]), to=dtype)
        matrix = evaluate(op, functools.partial(cosines, points=points, kept=kept), length)
        matrix = op.Reshape(op.Cast(matrix, to=dtype), [points, 2 * kept])
        starts = op.Mul(np.arange(frames)[:, None], op.Reshape(frame_step, [1, 1]))
        places = op.Min(op.Add(starts, np.arange(points)[None]), signal.shape[1] - 1)
        gathered = op.Gather(op.Squeeze(signal, [2]), places, axis=1)
        weighted = gathered if window is None else op.Mul(gathered, window)
        return op.Reshape(op.MatMul(weighted, matrix), [-1, frames, kept, 2])


def cosines(op, length, *, points, kept):
    """Cosine and negative sine of every frequency at every point, zeros past the length; [points, kept, 2]."""
    turns = np.outer(np.arange(points), np.arange(kept)) * 2 * np.pi
    angle = op.Div(op.constant(turns[..., None], length.dtype), length)
    inside = op.Cast(op.Less(op.constant(np.arange(points)[:, None, None], length.dtype), length), to=length.dtype)
    return op.Mul(op.Concat(op.Cos(angle), op.Neg(op.Sin(angle)), axis=2), inside)


@rule(
    name="onnx/mel-weight-matrix",
    matches="MelWeightMatrix",
    needed_by=_NEEDED,
    opsets=(17, 10**6),
    examples=[
        example(
            num_mel_bins=np.array(8), dft_length=np.array(16), sample_rate=np.array(8192),
            lower_edge_hertz=tensor(values=0.0), upper_edge_hertz=np.array(4000, np.float32),
        ),
        example(
            text="g (int64 m, int64 d, int64 r, float a, float b) => (float[17,6] y) {"
            " y = MelWeightMatrix(m, d, r, a, b) }",
            m=tensor(values=6, dtype="int64"), d=tensor(values=32, dtype="int64"), r=tensor(values=8000, dtype="int64"),
            a=tensor(values=100.0), b=tensor(values=3900.0),
        ),
    ],
    refuses=[
        example(
            text="g (int64 m, int64 d, int64 r, float a, float b) => (float[x,y] o) {"
            " o = MelWeightMatrix(m, d, r, a, b) }",
            because="static",
        )
    ],
)  # fmt: skip
class MelWeightMatrix:
    """MelWeightMatrix -> Log Exp Floor Where: its formula, computed while rewriting where all numbers are known.

    Source: the ONNX specification of MelWeightMatrix, opset 17, and its reference.
    """

    def check(node):
        require(node.outputs[0].shape.is_static(), "the shape of the matrix must be static")

    def rewrite(op, node):
        rows, columns = node.outputs[0].shape
        given = [v if v.constant is not None else op.Cast(v, to=np.float32) for v in node.inputs[1:]]
        made = evaluate(op, functools.partial(mel_weights, rows=rows, columns=columns), *given)
        return op.Cast(made, to=node.outputs[0].dtype)


def mel_weights(op, length, rate, low, high, *, rows, columns):
    """Triangles over the frequencies, shape [rows, columns]."""
    scale = 2595 / math.log(10)
    mels = [op.Mul(op.Log(op.Add(op.Div(edge, 700.0), 1.0)), scale) for edge in (low, high)]
    step = op.Div(op.Sub(mels[1], mels[0]), columns + 2.0)
    points = op.Add(op.Mul(op.constant(np.arange(columns + 2), length.dtype), step), mels[0])
    hertz = op.Mul(op.Sub(op.Exp(op.Div(points, scale)), 1.0), 700.0)
    bins = op.Floor(op.Div(op.Mul(op.Add(length, 1.0), hertz), rate))
    left, centre, right = (op.Slice(bins, [i], [i + columns], [0]) for i in range(3))
    j = op.constant(np.arange(rows)[:, None], length.dtype)
    rise, fall = op.Sub(centre, left), op.Sub(right, centre)
    rising = op.Where(op.Equal(rise, 0.0), 1.0, op.Div(op.Sub(j, left), op.Max(rise, 1.0)))
    falling = op.Div(op.Sub(right, j), op.Max(fall, 1.0))
    up = op.And(op.GreaterOrEqual(j, left), op.LessOrEqual(j, centre))
    down = op.And(op.GreaterOrEqual(j, centre), op.Less(j, right))
    return op.Where(down, falling, op.Where(up, rising, 0.0))
