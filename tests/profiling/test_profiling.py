"""Profiling over ONNX Runtime's own profiler; tests/gpu has the same over TensorRT's."""

import json
import re

import pytest
import torch

import bridge
from bridge.errors import SpecError
from bridge.runtime.session_onnxruntime import TimedOnnxRuntime

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")


class Block(torch.nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.linear = torch.nn.Linear(size, size)

    def forward(self, x):
        return torch.relu(self.linear(x))


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = Block(512)
        self.narrow = Block(8)

    def forward(self, x):
        y = self.wide(x)
        y = torch.sort(y, dim=1)[0]
        return self.narrow(y[:, :8])


@pytest.fixture(scope="module")
def compiled():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = torch.jit.script(Net().eval())
    return bridge.compile(module, [(64, 512)], backend="onnxruntime", torch_executed_ops=["aten::sort"])


@pytest.fixture(scope="module")
def report(compiled, tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "model.ts"
    torch.jit.save(compiled, path)
    return bridge.profile(torch.jit.load(path), torch.rand(64, 512), runs=5)


def test_layers_are_the_users_modules_and_lines(report):
    wide = next(
        part for part in report.layers if part.operators == ("aten::linear",) and part.module_path == "wide.linear"
    )
    assert wide.ms > 0
    assert re.fullmatch(r"test_profiling.py:\d+ in forward", wide.sources[0])
    assert {part.module_path.split(".")[0] for part in report.layers} >= {"wide", "narrow"}
    assert len(report.engines) == 2


def test_what_stays_in_pytorch_is_timed_too(report):
    names = {part.name: part for part in report.in_torch}
    assert names["aten.sort.default"].operators == ("aten::sort",)
    assert report.ms == pytest.approx(sum(part.ms for part in report.parts))


def test_modules_add_up(report):
    times = report.modules()
    inside = [part.ms for part in report.layers if part.module_path.startswith("wide")]
    assert times["wide"] == pytest.approx(sum(inside))
    assert times[""] == pytest.approx(report.ms)


def test_a_module_that_ran_more_than_once_counts_every_run(compiled):
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.once = compiled

        def forward(self, x):
            return self.once(x) + self.once(x + 1)

    x = torch.rand(64, 512)
    report = bridge.profile(Twice(), x, runs=3)
    assert len(report.engines) == 2
    assert len([span for span in report.spans if span.layers is not None]) == 3 * 4
    assert len([part for part in report.layers if part.module_path == "wide.linear"]) == 1


def test_page_trace_and_text(report, tmp_path):
    for suffix in (".html", ".json"):
        report.save(tmp_path / f"profile{suffix}")
    page = (tmp_path / "profile.html").read_text()
    assert "wide" in page and "test_profiling.py:" in page
    assert not re.search(r"https?://|<script|<link", page)
    events = json.loads((tmp_path / "profile.json").read_text())["traceEvents"]
    timed = [event for event in events if event["ph"] == "X"]
    assert {event["args"].get("run") for event in timed if event["cat"] == "engine"} == set(range(5))
    layers = [event for event in timed if event["args"].get("module") == "wide.linear"]
    assert len(layers) == 5
    assert all(event["ts"] >= 0 and event["dur"] > 0 for event in layers)
    assert "wide.linear: linear" in str(report)
    with pytest.raises(SpecError, match="end it in .html"):
        report.save(tmp_path / "profile.txt")


def test_engines_nest_in_their_calls(report):
    for span in report.spans:
        for layer in span.layers or ():
            assert layer.start >= 0 and layer.start + layer.ms <= span.ms + 0.1


def test_profiling_leaves_the_module_as_it_was(compiled):
    x = torch.rand(64, 512)
    before = compiled(x)
    bridge.profile(compiled, (x,), runs=1)
    assert torch.equal(compiled(x), before)


def test_profiled_runs_have_the_options_of_the_module(compiled, monkeypatch):
    heard = []
    run = TimedOnnxRuntime.run

    def listen(self, inputs, options):
        heard.append(options)
        return run(self, inputs, options)

    monkeypatch.setattr(TimedOnnxRuntime, "run", listen)
    bridge.configure(compiled, profile=0)
    try:
        bridge.profile(compiled, torch.rand(64, 512), runs=1)
    finally:
        bridge.configure(compiled, profile=None)
    assert {options.profile for options in heard} == {0}


@pytest.mark.parametrize(
    ("inputs", "settings", "message"),
    [((), {}, "nothing"), (torch.zeros(1), {"runs": 0}, "runs"), ([(1,), (2,)], {}, "2 sets")],
)
def test_what_cannot_be_meant(compiled, inputs, settings, message):
    with pytest.raises(SpecError, match=message):
        bridge.profile(compiled, inputs, **settings)
