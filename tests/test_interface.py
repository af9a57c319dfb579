"""Whole methods as ONNX and as engine bytes; modules with several methods."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import bridge

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x))

    @torch.jit.export
    def shifted(self, x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + by

    @torch.jit.export
    def counted(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x + self.count


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, more: dict[str, torch.Tensor], times: int = 3) -> dict[str, torch.Tensor]:
        i = 0
        while i < times and bool(x.sum() > -1000.0):
            x = self.linear(x)
            i += 1
        return {"last": x, "more": more["k"] + 1, "same": more["k"]}


class Nextafter(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nextafter(x, x + 1)


def _several() -> torch.jit.ScriptModule:
    torch.manual_seed(0)
    return torch.jit.script(Several().eval())


def _run(model: onnx.ModelProto, **inputs: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})


@pytest.mark.parametrize("rewrite", [True, False])
def test_onnx_is_named_checked_and_right(rewrite: bool) -> None:
    module = _several()
    x = bridge.Input(min_shape=(1, 64), opt_shape=(2, 64), max_shape=(8, 64))
    model = bridge.to_onnx(module, [x], rewrite=rewrite)
    onnx.checker.check_model(model, full_check=True)
    assert [v.name for v in model.graph.input] == ["x"] and [v.name for v in model.graph.output] == ["output"]
    for rows in (1, 5):
        value = torch.randn(rows, 64)
        np.testing.assert_allclose(_run(model, x=value)[0], module(value).detach(), rtol=1e-5, atol=1e-5)


def test_onnx_knows_where_its_nodes_come_from() -> None:
    model = bridge.to_onnx(_several(), [(2, 64)])
    origins = json.loads({entry.key: entry.value for entry in model.metadata_props}["bridge.provenance"])
    named = [node.name for node in model.graph.node if "aten::linear#" in node.name]
    origin = origins[int(named[0].split("#")[1].split("/")[0])]
    assert (origin["operator"], origin["module_path"]) == ("aten::linear", "linear")
    assert "test_interface.py" in origin["source"]


def test_onnx_of_control_flow_and_nests() -> None:
    torch.manual_seed(0)
    module = torch.jit.script(Nested().eval())
    model = bridge.to_onnx(module, bridge.CompileSpec(inputs=[(2, 4), {"k": (3,)}]))
    onnx.checker.check_model(model)
    assert [v.name for v in model.graph.output] == ["last", "more", "same"]
    x, k = torch.randn(2, 4), torch.randn(3)
    results = _run(model, x=x, **{"more.k": k})
    for found, expected in zip(results, module(x, {"k": k}).values(), strict=True):
        np.testing.assert_allclose(found, expected.detach(), rtol=1e-5, atol=1e-5)


def test_operators_that_onnx_lacks_are_nodes_or_errors() -> None:
    model = bridge.to_onnx(torch.jit.script(Nextafter()), [(2, 3)], rewrite=False)
    (node,) = (node for node in model.graph.node if node.domain == "torch.aten")
    attributes = {a.name: a.s.decode() for a in node.attribute}
    assert node.op_type == "nextafter" and attributes["schema"].startswith("aten::nextafter(Tensor self")
    assert "torch.aten" in [entry.domain for entry in model.opset_import]
    with pytest.raises(bridge.UnsupportedOperatorError, match=r"aten::nextafter(.|\n)*test_interface.py:\d+"):
        bridge.to_onnx(torch.jit.script(Nextafter()), [(2, 3)])


def test_engine_bytes_of_any_method() -> None:
    module = _several()
    engine = bridge.convert_method_to_trt_engine(
        module, "shifted", [(2, 64), (64,)], backend="tensorrt_rtx", optimization_level=0
    )
    assert isinstance(engine, bytes) and len(engine) > 64 * 64 * 4
    with pytest.raises(bridge.SpecError, match="forward, shifted, counted|no method 'shfted'"):
        bridge.convert_method_to_trt_engine(module, "shfted", [(2, 64)], backend="tensorrt_rtx")


def test_no_engine_for_what_has_to_stay_in_pytorch() -> None:
    with pytest.raises(bridge.UnsupportedOperatorError, match="aten::nextafter"):
        bridge.convert_method_to_trt_engine(torch.jit.script(Nextafter()), spec=[(2, 3)], backend="tensorrt_rtx")
    with pytest.raises(bridge.UnsupportedOperatorError):
        bridge.convert_method_to_trt_engine(
            torch.jit.script(Nested().eval()),
            spec=bridge.CompileSpec(inputs=[(2, 4), {"k": (3,)}]),
            backend="tensorrt_rtx",
        )
    with pytest.raises(bridge.BridgeError, match="ONNX Runtime has no engines"):
        bridge.convert_method_to_trt_engine(_several(), spec=[(2, 64)], backend="onnxruntime")


def test_the_error_starts_a_rule() -> None:
    with pytest.raises(bridge.UnsupportedOperatorError) as caught:
        bridge.compile(torch.jit.script(Nextafter()), [(2, 3)], backend="onnxruntime", require_full_compilation=True)
    text = str(caught.value)
    assert "aten::nextafter(Tensor self, Tensor other) -> Tensor" in text and "test_interface.py" in text
    start = "\n".join(line[4:] for line in text[text.index("    import rewrites") :].splitlines())
    code = compile(start.replace("compiled = bridge.compile(module, spec, rules=[nextafter])", ""), "start", "exec")
    made: dict[str, object] = {}
    exec(code, made)
    assert "nextafter" in str(made["nextafter"].name)


def test_other_methods_stay_and_share_state(tmp_path) -> None:
    module = _several()
    compiled = bridge.compile(module, [(2, 64)], backend="onnxruntime")
    torch.jit.save(compiled, tmp_path / "several.ts")
    for one in (compiled, torch.jit.load(tmp_path / "several.ts")):
        x, by = torch.randn(2, 64), torch.randn(64)
        torch.testing.assert_close(one(x), module(x))
        torch.testing.assert_close(one.shifted(x, by), module.shifted(x, by))
        assert float((one.counted(x) - x).mean()) == pytest.approx(1.0)
        assert float((one.counted(x) - x).mean()) == pytest.approx(2.0)


class Cached(nn.Module):
    """Another method changes what forward reads."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x) * self.scale

    @torch.jit.export
    def set(self, scale: torch.Tensor) -> torch.Tensor:
        self.scale.copy_(scale)
        return scale


def test_what_another_method_changes_is_read_anew() -> None:
    module = torch.jit.script(Cached())
    compiled = bridge.compile(module, [(2, 64)], backend="onnxruntime")
    x = torch.randn(2, 64)
    torch.testing.assert_close(compiled(x), torch.sin(x))
    compiled.set(torch.full((64,), 3.0))
    torch.testing.assert_close(compiled(x), torch.sin(x) * 3)
