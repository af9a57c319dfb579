"""Every operator of ResNet50 compared, in under 30 s of one core and under 4 GB; a smaller network in every run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

torchvision = pytest.importorskip("torchvision")

SIZES = [
    pytest.param("resnet18", 32, 20, id="small"),
    pytest.param("resnet50", 224, 120, id="resnet50", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
]


@pytest.mark.parametrize(("name", "size", "least"), SIZES)
def test_every_operator_in_little_time_and_memory(name: str, size: int, least: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = getattr(torchvision.models, name)().eval(), torch.rand(1, 3, size, size)
    torch.jit.trace(model, x, check_trace=False).save(str(tmp_path / "model.ts"))
    torch.save((x,), tmp_path / "x.pt")
    paths = [str(tmp_path / "model.ts")] * 2
    options = ["--inputs", str(tmp_path / "x.pt"), "--layers", "--json", str(tmp_path / "report.json")]
    command = [sys.executable, "-c", "from bridge.cli import main; main()", "compare", *paths, *options]
    with (tmp_path / "said").open("wb") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        _, status, used = os.wait4(process.pid, 0)  # what this one used, and no other child
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, (tmp_path / "said").read_text()
    took = used.ru_utime + used.ru_stime
    print(f"{took:.1f} s of the processor, {used.ru_maxrss / 1e6:.2f} GB")
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["passed"] and data["first_divergence"] is None and len(data["layers"]) > least
    assert took < 30 and used.ru_maxrss < 4e6  # with starting Python and torch; in KiB on Linux
