"""Optimizer steps: ONNX defines them as operators of their own."""

from __future__ import annotations

from rewrites import example, rule, tensor

DOMAIN = "ai.onnx.preview.training"
HEAD = f'< ir_version: 8, opset_import: [ "" : 18, "{DOMAIN}" : 1 ] > g '


def step(operator, states, shape, **attributes):
    """An example of one step of an optimizer."""
    names = ["x", "g", *states]
    given = ", ".join(f"{k} = {v}" for k, v in attributes.items())
    inputs, outputs = (
        ", ".join(f"float[{shape}] {n}" for n in names),
        ", ".join(f"float[{shape}] {n}2" for n in ["x", *states]),
    )
    made = ", ".join(f"{n}2" for n in ["x", *states])
    body = f"{made} = {DOMAIN}.{operator}<{given}>(r, t, {', '.join(names)})"
    text = f"{HEAD}(float r, int64 t, {inputs}) => ({outputs}) {{ {body} }}"
    return example(
        text=text,
        r=tensor(values=0.1),
        t=tensor(dtype="int64", values=2),
        h=tensor(*shape_of(shape), low=0.1, high=1.0),
    )


def shape_of(shape):
    return tuple(int(s) if s.isdigit() else s for s in shape.split(","))


def grouped(node, kinds):
    """The tensors of each kind: all of the first, then all of the second ..."""
    tensors = node.inputs[2:]
    count = len(tensors) // kinds
    return list(zip(*(tensors[i * count : (i + 1) * count] for i in range(kinds)), strict=True))


def outputs(results):
    """The new tensors, all of the first kind first."""
    return tuple(value for kind in zip(*results, strict=True) for value in kind)


@rule(
    name="onnx/adagrad-to-arithmetic",
    matches=f"{DOMAIN}::Adagrad",
    examples=[
        step("Adagrad", ["h"], "2,3", norm_coefficient=0.001, epsilon=1e-5, decay_factor=0.1),
        step("Adagrad", ["h"], "n", epsilon=1e-5),
    ],
)
class AdagradToArithmetic:
    """Adagrad -> Mul Add Sqrt Div Sub: the step that the specification writes out.

    Source: ONNX operator specification, ai.onnx.preview.training; the parser has no importer.
    """

    def rewrite(op, node, R, T, norm_coefficient, epsilon, decay_factor):
        rate = op.Div(R, op.Add(op.Mul(op.Cast(T, to=1), decay_factor), 1.0))
        results = []
        for x, g, h in grouped(node, 3):
            gradient = op.Add(op.Mul(x, norm_coefficient), g)
            squares = op.Add(h, op.Mul(gradient, gradient))
            results.append((op.Sub(x, op.Div(op.Mul(rate, gradient), op.Add(op.Sqrt(squares), epsilon))), squares))
        return outputs(results)


@rule(
    name="onnx/adam-to-arithmetic",
    matches=f"{DOMAIN}::Adam",
    examples=[
        step("Adam", ["v", "h"], "2,3", alpha=0.95, beta=0.1, norm_coefficient=0.001),
        step("Adam", ["v", "h"], "n", norm_coefficient_post=0.01),
    ],
)
class AdamToArithmetic:
    """Adam -> Mul Add Sqrt Div Sub: the step that the specification writes out.

    Source: ONNX operator specification, ai.onnx.preview.training; the parser has no importer.
    """

    def rewrite(op, node, R, T, alpha, beta, epsilon, norm_coefficient, norm_coefficient_post):
        time = op.Cast(T, to=1)
        corrected = op.Div(op.Mul(R, op.Sqrt(op.Sub(1.0, op.Pow(beta, time)))), op.Sub(1.0, op.Pow(alpha, time)))
        rate = op.Where(op.Greater(time, 0.0), corrected, R)
        results = []
        for x, g, v, h in grouped(node, 4):
            gradient = op.Add(op.Mul(x, norm_coefficient), g)
            mean = op.Add(op.Mul(v, alpha), op.Mul(gradient, 1 - alpha))
            squares = op.Add(op.Mul(h, beta), op.Mul(op.Mul(gradient, gradient), 1 - beta))
            moved = op.Sub(x, op.Div(op.Mul(rate, mean), op.Add(op.Sqrt(squares), epsilon)))
            results.append((op.Mul(moved, 1 - norm_coefficient_post), mean, squares))
        return outputs(results)


@rule(
    name="onnx/momentum-to-arithmetic",
    matches=f"{DOMAIN}::Momentum",
    examples=[
        step("Momentum", ["v"], "2,3", alpha=0.95, beta=0.1, norm_coefficient=0.001, mode='"standard"'),
        step("Momentum", ["v"], "n", alpha=0.95, beta=0.1, norm_coefficient=0.01, mode='"nesterov"'),
    ],
)
class MomentumToArithmetic:
    """Momentum -> Mul Add Sub: the step that the specification writes out.

    Source: ONNX operator specification, ai.onnx.preview.training; the parser has no importer.
    """

    def rewrite(op, node, R, T, alpha, beta, norm_coefficient, mode):
        later, results = op.Greater(T, 0), []
        weight = op.Where(later, op.constant(beta), op.constant(1.0))
        for x, g, v in grouped(node, 3):
            gradient = op.Add(op.Mul(x, norm_coefficient), g)
            speed = op.Add(op.Mul(v, alpha), op.Mul(gradient, weight))
            direction = op.Add(gradient, op.Mul(speed, alpha)) if mode in ("nesterov", b"nesterov") else speed
            results.append((op.Sub(x, op.Mul(R, direction)), speed))
        return outputs(results)
