"""What the engine inspector of TensorRT says of layers, in the forms of its documentation, without an engine."""

import pytest

from bridge.diff.sides import _layer
from bridge.runtime.session_tensorrt import _described

METADATA = "[ONNX Layer: encoder.0/aten::conv2d#12/Conv]\x1e[ONNX Layer: main/aten::relu#13/Relu]"


@pytest.mark.parametrize(
    ("told", "precision"),
    [
        ({"Format/Datatype": "Row major linear FP16 format"}, "float16"),
        ({"Format/Datatype": "Channel major FP32 format where channel % 4 == 0"}, "float32"),
        ({"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}, "int8"),
        ({"Format": "Row major linear", "Datatype": "BF16"}, "bfloat16"),
        ({"Format/Datatype": "Half"}, "float16"),
        ({"Format/Datatype": "Row major Int64 format"}, "int64"),
        ({"Name": "y"}, ""),
    ],
)
def test_precisions(told: dict[str, str], precision: str) -> None:
    assert _described({"Name": "a", "Outputs": [told]})["precision"] == precision


def test_a_fused_layer_knows_all_its_operators() -> None:
    made = {"Name": "__myl_Conv_0", "LayerType": "kgen", "Outputs": [], "TacticName": "t", "Metadata": METADATA}
    described = _described(made)
    assert described == {"name": "__myl_Conv_0", "type": "kgen", "from": METADATA, "precision": "", "tactic": "t"}
    layer = _layer(1, described, 0)
    assert (layer.engine, layer.origins, layer.kind) == (1, (12, 13), "kgen")
