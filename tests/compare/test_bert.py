"""Errors planted in BERT, each found and named by one command; BERT-base (12 layers, 768 wide) is slow."""

import json
import resource
import time
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

import bridge
from bridge.cli import main
from tests.compare.planted import SoftmaxTooLarge

transformers = pytest.importorskip("transformers")

SMALL = {"num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
SIZES = [
    pytest.param(SMALL, id="small"),
    pytest.param({"num_hidden_layers": 12}, id="base", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
]
LAYER = "bert.encoder.layer.1"


class Hidden(torch.nn.Module):
    """BERT's last hidden state."""

    def __init__(self, **settings: int) -> None:
        super().__init__()
        config = transformers.BertConfig(**settings, vocab_size=1000, attn_implementation="eager", use_cache=False)
        self.bert = transformers.BertModel(config, add_pooling_layer=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.bert(ids)[0]


@pytest.fixture(scope="module", params=SIZES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as ``bert.ts``, with ``ids.pt``."""
    made = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    model, ids = Hidden(**request.param).eval(), torch.randint(0, 1000, (1, 64))
    torch.jit.trace(model, ids, check_trace=False).save(str(made / "bert.ts"))
    torch.save((ids,), made / "ids.pt")
    with torch.no_grad():
        attention = model.bert.encoder.layer[1].attention.self
        for linear in (attention.query, attention.key):
            linear.weight *= 600
    torch.jit.trace(model, ids, check_trace=False).save(str(made / "large.ts"))
    return made


def compared(folder: Path, *words: object) -> dict[str, Any]:
    """What `bridge compare` writes about them; within two minutes of one core."""
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options = ["--inputs", folder / "ids.pt", "--layers", "--json", folder / "report.json"]
    with pytest.raises(SystemExit) as ended:
        main(["compare", *map(str, (*words, *options))])
    took = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    print(f"{took:.1f} s of the processor, {grown:.2f} GiB more")
    assert ended.value.code in (0, 1) and took < 120
    data: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return data


def first(data: dict[str, Any]) -> dict[str, Any]:
    assert data["first_divergence"] is not None, data["verdict"]
    row: dict[str, Any] = data["layers"][data["first_divergence"]]
    return row


def test_a_rule_off_by_one_percent(folder: Path) -> None:
    ids = torch.load(folder / "ids.pt")[0]
    wrong = bridge.to_onnx(torch.jit.load(str(folder / "bert.ts")), [ids], rules=[SoftmaxTooLarge])
    onnx.save(wrong, folder / "wrong.onnx")
    row = first(compared(folder, folder / "bert.ts", folder / "wrong.onnx"))
    assert (row["origin"]["module_path"], row["origin"]["operator"]) == (f"{LAYER}.attention.self", "aten::softmax")
    assert row["rules"][0].endswith("softmax-too-large") and row["guilty_stage"] == "rewritten"


def test_a_wrong_epsilon(folder: Path) -> None:
    ids = torch.load(folder / "ids.pt")[0]
    wrong = bridge.to_onnx(torch.jit.load(str(folder / "bert.ts")), [ids])
    name = f"{LAYER}.output.LayerNorm/"
    (node,) = [n for n in wrong.graph.node if n.op_type == "LayerNormalization" and n.name.startswith(name)]
    next(a for a in node.attribute if a.name == "epsilon").f = 1e-3
    onnx.save(wrong, folder / "wrong.onnx")
    row = first(compared(folder, folder / "bert.ts", folder / "wrong.onnx"))
    assert row["origin"]["module_path"] == f"{LAYER}.output.LayerNorm"


def test_an_overflow_in_one_attention(folder: Path) -> None:
    data = compared(folder, folder / "large.ts", folder / "large.ts", "--precision", "float16")
    row = first(data)
    assert row["origin"]["module_path"].startswith(f"{LAYER}.attention.self") and "infinite" in data["verdict"]
    assert row["origin"]["operator"] in ("aten::matmul", "aten::linear", "aten::mul")


def test_the_right_one_agrees(folder: Path) -> None:
    data = compared(folder, folder / "bert.ts", folder / "bert.ts")
    assert data["passed"] and data["first_divergence"] is None and len(data["layers"]) > 50
