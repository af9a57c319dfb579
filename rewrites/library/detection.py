"""Detection heads: regions pooled and boxes suppressed, without the plugins that TensorRT-RTX lacks."""

from __future__ import annotations

import numpy as np

from rewrites import example, require, rule, tensor

MOST_BOXES = 4096


def boxes_of(*rows):
    return tensor(1, len(rows), 4, values=[list(rows)])


SPREAD = boxes_of(
    [0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, -0.1, 1, 0.9], [0, 10, 1, 11], [0, 10.1, 1, 11.1], [0, 100, 1, 101]
)
SCORES = tensor(1, 1, 6, values=[[[0.9, 0.75, 0.6, 0.95, 0.5, 0.3]]])


@rule(
    name="onnx/roi-align-to-matmul",
    matches="RoiAlign",
    needed_by={"tensorrt_rtx": "all versions"},
    opsets=(16, 10**6),
    examples=[
        example(
            X=(2, 3, 8, 9),
            rois=tensor(4, 4, low=0.0, high=9.0),
            batch_indices=tensor(4, dtype="int64", high=2),
            output_height=2,
            output_width=3,
            sampling_ratio=2,
            spatial_scale=0.9,
        ),
        example(
            X=("b", 3, "h", "w"),
            rois=tensor("r", 4, low=0.0, high=5.0),
            batch_indices=tensor("r", dtype="int64", high=2),
            output_height=2,
            output_width=2,
            sampling_ratio=3,
            coordinate_transformation_mode="output_half_pixel",
            _sizes={"h": 8, "w": 7},
        ),
    ],
    refuses=[
        example(X=(1, 1, 4, 4), rois=(1, 4), batch_indices=tensor(1, dtype="int64", high=1), because="sampling_ratio"),
        example(
            X=(1, 1, 4, 4),
            rois=(1, 4),
            batch_indices=tensor(1, dtype="int64", high=1),
            sampling_ratio=1,
            mode="max",
            because="max",
        ),
    ],
)
class RoiAlignToMatMul:
    """RoiAlign -> MatMul MatMul: bilinear sampling and its mean are linear, one matrix for rows and one for columns.

    Source: ONNX operator specification; the parser's "ROIAlign plugin was not found in the plugin registry".
    """

    def check(mode, sampling_ratio):
        require(mode in ("avg", b"avg"), "only the mean of the samples is linear, not the max")
        require(
            sampling_ratio > 0,
            "a sampling_ratio of 0 takes as many samples as the region is large, which differs for each",
        )

    def rewrite(op, node, X, rois, batch_indices, output_height, output_width):
        half = node.attributes["coordinate_transformation_mode"] in ("half_pixel", b"half_pixel")
        scaled = op.Sub(op.Mul(rois, node.attributes["spatial_scale"]), 0.5 if half else 0.0)
        ratio, sizes = node.attributes["sampling_ratio"], op.Shape(X)
        rows = sampling(op, scaled, (1, 3), op.Gather(sizes, 2), output_height, ratio, half)
        columns = sampling(op, scaled, (0, 2), op.Gather(sizes, 3), output_width, ratio, half)
        images = op.Gather(X, batch_indices, axis=0)
        tall = op.MatMul(op.Unsqueeze(rows, [1]), images)
        return op.MatMul(tall, op.Unsqueeze(op.Transpose(columns, perm=[0, 2, 1]), [1]))


def sampling(op, rois, edges, size, bins, ratio, half):
    """The weights, [regions, bins, size], of the mean over `ratio` samples of every bin along one axis."""
    start, end = (op.Gather(rois, [e], axis=1) for e in edges)
    length = op.Sub(end, start)
    length = length if half else op.Max(length, 1.0)
    steps = ((np.arange(bins * ratio) + 0.5) / (bins * ratio)).astype(rois.dtype)
    at = op.Add(start, op.Mul(length, steps[None]))
    last = op.Cast(op.Sub(size, 1), to=rois.dtype)
    outside = op.Or(op.Less(at, -1.0), op.Greater(at, op.Add(last, 1.0)))
    places = op.Cast(op.Range(0, size, 1), to=rois.dtype)
    near = op.Max(op.Sub(1.0, op.Abs(op.Sub(op.Unsqueeze(op.Min(op.Max(at, 0.0), last), [2]), places))), 0.0)
    weights = op.Where(op.Unsqueeze(outside, [2]), 0.0, near)
    shape = op.Concat([-1, bins, ratio], op.Reshape(size, [1]), axis=0)
    return op.ReduceMean(op.Reshape(weights, shape), [2], keepdims=0)


def suppression(made, **options):
    """An example of which the number of selected boxes is known."""
    text = (
        f"g (float[1,6,4] boxes, float[1,1,6] scores) => (int64[{made},3] y) {{ m = Constant<value_int=3>()"
        " i = Constant<value_float=0.5>() s = Constant<value_float=0.4>() y = NonMaxSuppression(boxes, scores,"
        " m, i, s) }"
    )
    return example(text=text, boxes=SPREAD, scores=SCORES, **options)


@rule(
    name="onnx/nms-of-known-count",
    matches="NonMaxSuppression",
    needed_by={"tensorrt_rtx": "all versions"},
    examples=[
        suppression(2),
        example(
            text="g (float[1,6,4] boxes, float[1,2,6] scores, int64[1] m, float[1] i) => (int64[4,3] y)"
            " { y = NonMaxSuppression(boxes, scores, m, i) }",
            boxes=SPREAD,
            scores=tensor(1, 2, 6, values=[[[0.9, 0.75, 0.6, 0.95, 0.5, 0.3], [0.1] * 6]]),
            m=tensor(1, dtype="int64", values=[2]),
            i=tensor(1, values=[0.5]),
            _sizes={},
        ),
    ],
    refuses=[suppression("n", because="how many boxes")],
)
class NmsOfKnownCount:
    """NonMaxSuppression -> TopK Loop TopK: the greedy choice over all pairs of boxes, when it is known how"
    " many it gives.

    Source: ONNX operator specification; TensorRT-RTX parses NonMaxSuppression and then fails to build it.
    """

    def check(node, boxes):
        known = node.outputs[0].dims
        require(
            known is not None and known.is_static(),
            "how many boxes are selected must be known: TensorRT-RTX has no NonZero",
        )
        require(
            boxes.shape.is_static(1) and boxes.shape[1] <= MOST_BOXES,
            f"at most {MOST_BOXES} boxes are compared with each other",
        )

    def rewrite(op, node, boxes, scores, max_output_boxes_per_class, iou_threshold, score_threshold):
        count, center = boxes.shape[1], node.given.get("center_point_box", 0)
        ranked, order = op.TopK(scores, [count], axis=-1, _outputs=2)
        overlap = op.Unsqueeze(overlaps(op, boxes, center), [1])
        by_rank = op.Expand(op.Unsqueeze(order, [3]), op.Concat(op.Shape(order), [count], axis=0))
        rows = op.GatherElements(op.Expand(overlap, op.Shape(by_rank)), by_rank, axis=2)
        pairs = op.GatherElements(rows, op.Transpose(by_rank, perm=[0, 1, 3, 2]), axis=3)
        over = op.Greater(pairs, number(op, iou_threshold, 0.0))
        earlier = np.tril(np.ones((count, count), bool), -1)
        beats = op.Cast(op.And(over, earlier), to=np.float32)
        able = able_boxes(op, ranked, score_threshold)
        kept = greedy(op, beats, able, count)
        at_most = op.Cast(number(op, max_output_boxes_per_class, 0), to=np.float32)
        kept = op.Mul(kept, op.Cast(op.LessOrEqual(op.CumSum(kept, 3 - 1), at_most), to=np.float32))
        return selected(op, kept, order, node.outputs[0].shape[0])


def number(op, value, default):
    """An optional scalar input."""
    return op.constant(default) if value is None else op.Reshape(value, np.zeros(0, np.int64))


def able_boxes(op, ranked, threshold):
    """1 where the score is above the threshold; all, when there is none."""
    if threshold is None:
        return op.Add(op.Mul(ranked, 0.0), 1.0)
    return op.Cast(op.Greater(ranked, number(op, threshold, 0.0)), to=np.float32)


def greedy(op, beats, able, count):
    """Keep a box when no kept one before it beats it: settled for one more box at every step."""

    def step(op, i, go, kept):
        beaten = op.Squeeze(op.MatMul(beats, op.Unsqueeze(kept, [3])), [3])
        return op.Identity(go), op.Mul(able, op.Cast(op.Less(beaten, 0.5), to=np.float32))

    return op.Loop(count, True, able, body=step)


def overlaps(op, boxes, center):
    """Intersection over union of all pairs of boxes, [batches, boxes, boxes]."""
    a, b, c, d = (op.Gather(boxes, [i], axis=2) for i in range(4))
    if center:
        low = [op.Sub(b, op.Mul(d, 0.5)), op.Sub(a, op.Mul(c, 0.5))]
        high = [op.Add(b, op.Mul(d, 0.5)), op.Add(a, op.Mul(c, 0.5))]
    else:
        low, high = [op.Min(a, c), op.Min(b, d)], [op.Max(a, c), op.Max(b, d)]
    shared, area = None, None
    for first, last in zip(low, high, strict=False):
        over = op.Max(op.Sub(op.Min(last, flipped(op, last)), op.Max(first, flipped(op, first))), 0.0)
        side = op.Sub(last, first)
        shared, area = (over, side) if shared is None else (op.Mul(shared, over), op.Mul(area, side))
    union = op.Sub(op.Add(area, flipped(op, area)), shared)
    return op.Where(op.Greater(union, 0.0), op.Div(shared, op.Where(op.Greater(union, 0.0), union, 1.0)), 0.0)


def flipped(op, column):
    return op.Transpose(column, perm=[0, 2, 1])


def selected(op, kept, order, count):
    """The first `count` kept boxes as rows (batch, class, box)."""
    flat, sizes = op.Reshape(kept, [-1]), op.Shape(kept)
    places = op.Range(0, op.Squeeze(op.Shape(flat), [0]), 1)
    _, first = op.TopK(op.Sub(op.Mul(flat, 1e7), op.Cast(places, to=np.float32)), [count], _outputs=2)
    boxes, classes = op.Gather(sizes, 2), op.Gather(sizes, 1)
    row = op.Div(first, boxes)
    parts = op.Div(row, classes), op.Mod(row, classes), op.Gather(op.Reshape(order, [-1]), first)
    return op.Concat(*(op.Unsqueeze(p, [1]) for p in parts), axis=1)
