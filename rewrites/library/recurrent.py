"""Recurrent layers: batches first."""

from __future__ import annotations

from rewrites import example, rule


@rule(
    name="onnx/recurrent-batch-second",
    matches=["LSTM", "GRU", "RNN"],
    opsets=(14, 10**6),
    examples=[
        example(X=(3, 4, 2), W=(1, 20, 2), R=(1, 20, 5), hidden_size=5, layout=1, _outputs=3),
        example(
            X=("b", 4, 2),
            W=(2, 15, 2),
            R=(2, 15, 5),
            initial_h=("b", 2, 5),
            hidden_size=5,
            layout=1,
            direction="bidirectional",
            op_type="GRU",
            _outputs=2,
        ),
    ],
)
class RecurrentBatchSecond:
    """LSTM layout=1 -> Transpose LSTM layout=0 Transpose: the sequence first, as the parser reads it.

    Source: the parser ignores `layout`, and gives results of the other layout without a word.
    """

    def applies(layout):
        return layout == 1

    def rewrite(op, node):
        inputs = [swapped(op, v) if i in (0, 5, 6) else v for i, v in enumerate(node.inputs)]
        attributes = {k: v for k, v in node.given.items() if k != "layout"}
        count = len(node.outputs)
        made = op.call(node.op, *inputs, _outputs=count, **attributes)
        sequence, *last = made if isinstance(made, tuple) else (made,)
        return op.Transpose(sequence, perm=[2, 0, 1, 3]), *(swapped(op, v) for v in last)


def swapped(op, value):
    """The first two axes exchanged."""
    return None if value is None else op.Transpose(value, perm=[1, 0, 2])
