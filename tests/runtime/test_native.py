"""The operator's C++ implementation as far as no GPU is needed; tests/gpu/test_native.py has the rest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bridge.errors import BridgeError, EngineError
from bridge.runtime import build, implementation, native

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The library that is built already, else one built now: about a minute."""
    named = os.environ.get("BRIDGE_RUNTIME_LIBRARY")
    for path in filter(None, (named and Path(named), native.default_path())):
        if path.is_file():
            return path
    try:
        return build.build(tmp_path_factory.mktemp("native") / native.LIBRARY)
    except BridgeError as error:
        if "failed on" in error.what:
            raise
        pytest.skip(f"the library cannot be built here: {error.what}: {error.why}")


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def in_both(code: str, folder: Path, library: Path) -> tuple[str, str]:
    """What the code prints with the library and without."""
    runs = [
        python(code, folder, BRIDGE_RUNTIME="native", BRIDGE_RUNTIME_LIBRARY=str(library)),
        python(code, folder, BRIDGE_RUNTIME="python"),
    ]
    for run in runs:
        assert run.returncode == 0, run.stdout + run.stderr
    return runs[0].stdout, runs[1].stdout


def test_this_process_runs_what_it_was_told_to():
    assert implementation() in ("native", "python")
    assert (implementation() == "native") == native.is_loaded()


REFUSALS = """
import torch, bridge
from bridge.runtime import Binding, InputSignature, OutputSignature, Plan, PlanHeader, Range, Signature

def refused(inputs, plan, signature):
    try:
        torch.ops.bridge.execute_engine(inputs, plan, signature)
    except RuntimeError as error:
        print(str(error))
    else:
        raise SystemExit("not refused")

bindings = lambda *names: tuple(Binding(name, "float32", ("b", 3)) for name in names)
names = bindings("x", "\\u00e9\\U0001f600")
header = PlanHeader("tensorrt", "10.6.0", names, bindings("y"), settings={"a": [1.5e3, None]})
plan = Plan.pack(header, {"engine": b"no engine"}).to_tensor()
batch = Range(1, 2, 4, "b")
inputs = (
    InputSignature("x", "float32", ("float16", "float32"), (batch, 3)),
    InputSignature("\\u00e9\\U0001f600", "int64", (), (batch, Range(2, 2, 9))),
)
signature = Signature(inputs, (OutputSignature("y", "float32", ("i0.0", 3)),)).to_json()
x, i = torch.zeros(2, 3), torch.zeros(2, 5, dtype=torch.int64)
refused([], plan, signature)
refused([x], plan, signature)
refused([x.int(), i], plan, signature)
refused([x, i.bool()], plan, signature)
refused([x, i.to(torch.complex64)], plan, signature)
refused([x[0], i], plan, signature)
refused([x.sum(), i], plan, signature)
refused([torch.zeros(5, 3), i], plan, signature)
refused([torch.zeros(0, 3), i], plan, signature)
refused([torch.zeros(2, 4), i], plan, signature)
refused([x, i[:, :1]], plan, signature)
refused([x, i[:1]], plan, signature)
refused([x, i], torch.zeros(3, dtype=torch.uint8), signature)
refused([x, i], torch.zeros(3000, dtype=torch.uint8), signature)
refused([x, i], plan[:-64].clone(), signature)
refused([], plan, Signature((), ()).to_json().replace('"version":1', '"version":7'))
if not torch.cuda.is_available():
    refused([x, i], plan, signature)
"""


def test_refusals_have_the_same_words(library, tmp_path):
    native, in_python = in_both(REFUSALS, tmp_path, library)
    assert native == in_python
    assert len(native.splitlines()) >= 17


OTHER_BACKENDS = """
import sys, torch, bridge
from bridge.runtime import configure, implementation
print(implementation(), file=sys.stderr)
module = torch.jit.load("model.ts")
x = torch.linspace(0, 1, 12).view(3, 4).requires_grad_()
print(module(x).tolist(), module(x).requires_grad)
configure(module, cuda_graphs=True)
print(module(x).tolist())
program = torch.export.export(bridge.as_module(module), (x,), strict=False)
print(program.module()(x).tolist())
try:
    module(torch.zeros(9, 4))
except RuntimeError as error:
    print("input 'x' has shape 9x4" in str(error))
plan = module.plan
again = torch.ops.bridge.execute_engine([x], plan.clone(), '{}'.replace("{}", open("signature.json").read()))
print(again[0].tolist())
"""


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_plans_of_other_backends_run_as_in_python(library, tmp_path):
    import numpy as np
    import onnx_graphsurgeon as gs

    from bridge.backends import select
    from bridge.runtime import embed_engine_in_new_module, plan_signature

    x, y = gs.Variable("x", np.float32, ["n", 4]), gs.Variable("y", np.float32, ["n", 4])
    graph = gs.Graph([gs.Node("Exp", "e#1", {}, [x], [y])], [x], [y], opset=18)
    plan = select("onnxruntime").build(graph, [{"x": ((1, 4), (2, 4), (4, 4))}])
    torch.jit.save(embed_engine_in_new_module(plan), tmp_path / "model.ts")
    (tmp_path / "signature.json").write_text(plan_signature(plan).to_json())
    native, in_python = in_both(OTHER_BACKENDS, tmp_path, library)
    assert native == in_python


DAMAGE = """
import random, torch, bridge
from bridge.runtime import Binding, InputSignature, OutputSignature, Plan, PlanHeader, Signature, implementation
assert implementation() == "native"
random.seed(0)
binding = Binding("x", "float32", (1,))
header = PlanHeader("tensorrt", "10.6.0", (binding,), (binding,), ({"x": ((1,), (1,), (1,))},))
plan = Plan.pack(header, {"engine": bytes(300)}).to_tensor()
signature = Signature((InputSignature("x", "float32", (), (1,)),), (OutputSignature("x", "float32", (1,)),)).to_json()
end = int.from_bytes(bytes(plan[16:24].tolist()), "little") + 24
device = "cuda" if torch.cuda.is_available() else "cpu"
x = torch.zeros(1, device=device)
for round in range(3000):
    damaged = plan.clone()
    for _ in range(random.randint(1, 4)):
        damaged[random.randrange(8, end)] = random.choice(b'{}[]",:0-9etfn\\\\u' + bytes([0, 255]))
    text = list(signature)
    if round % 2:
        text[random.randrange(len(text))] = random.choice('{}[]",:0-9etfn\\\\u')
    damaged = damaged[: random.choice((len(damaged), random.randrange(len(damaged))))].clone()
    try:
        torch.ops.bridge.execute_engine([x], damaged, "".join(text))
    except Exception:  # of Python's making where the damage is to the backend's name
        continue
    raise SystemExit("not refused")
print("fine")
"""


def test_damaged_plans_are_refused(library, tmp_path):
    done = python(DAMAGE, tmp_path, BRIDGE_RUNTIME="native", BRIDGE_RUNTIME_LIBRARY=str(library))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "fine\n"


def test_what_is_asked_for_by_name_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "is_loaded", lambda: False)
    monkeypatch.setenv("BRIDGE_RUNTIME_LIBRARY", str(tmp_path / "missing.so"))
    monkeypatch.delenv("BRIDGE_RUNTIME", raising=False)
    with pytest.raises(EngineError, match=r"not at .*missing.so"):
        native.load()
    monkeypatch.setenv("BRIDGE_RUNTIME", "python")
    assert not native.load()
    monkeypatch.setenv("BRIDGE_RUNTIME", "rust")
    with pytest.raises(EngineError, match="BRIDGE_RUNTIME is 'rust'"):
        native.load()
    (tmp_path / "missing.so").write_text("no library")
    monkeypatch.setenv("BRIDGE_RUNTIME", "native")
    with pytest.raises(EngineError, match="does not load") as caught:
        native.load()
    assert native.BUILD in str(caught.value)


def test_without_a_build_python_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "is_loaded", lambda: False)
    for name in ("BRIDGE_RUNTIME", "BRIDGE_RUNTIME_LIBRARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.default_path().is_relative_to(tmp_path)
    assert not native.load()
    monkeypatch.setenv("BRIDGE_RUNTIME", "native")
    with pytest.raises(EngineError, match="build it"):
        native.load()


def test_building_says_what_is_missing(tmp_path, monkeypatch, capsys):
    arguments = ["--tensorrt-root", str(tmp_path), "--output", str(tmp_path / "out.so")]
    assert build.main(arguments) == 1
    assert "TensorRT's headers are not found" in capsys.readouterr().err
    (tmp_path / "NvInferRuntime.h").write_text("#error these are no headers\n")
    monkeypatch.setenv("CXX", "false")
    assert build.main(arguments) == 1
    assert "false failed on" in capsys.readouterr().err
    assert not (tmp_path / "out.so").exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX")
    with pytest.raises(BridgeError, match="no C\\+\\+ compiler"):
        build.build(tmp_path / "out.so", tmp_path)
