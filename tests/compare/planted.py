"""Planted errors."""

import numpy as np
import torch

from rewrites import example, rule

IDS = torch.randint(0, 30, (2, 7), generator=torch.Generator().manual_seed(1))


@rule(name="test/softmax-too-large", matches="Softmax", examples=[example(input=(2, 3))])
class SoftmaxTooLarge:
    """Softmax -> Exp ReduceSum Div Mul: one percent too large, in the second layer only."""

    def applies(node):
        return "layers.1/" in node.name or ".layer.1." in node.name

    def rewrite(op, input):
        grown = op.Exp(input)
        return op.Mul(op.Div(grown, op.ReduceSum(grown, np.array([-1]), keepdims=1)), np.float32(1.01))
