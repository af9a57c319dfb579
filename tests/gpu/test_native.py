"""The operator's implementation in C++: built here, beside the one in Python, and in C++ programs without Python."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest
import torch

from bridge.backends import BuildSettings, select
from bridge.errors import BridgeError
from bridge.runtime import build, embed_engine_in_new_module, native

pytest.importorskip("tensorrt")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:.*deprecated"),
]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "cpp"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    named = os.environ.get("BRIDGE_RUNTIME_LIBRARY")
    if named:
        return Path(named)
    try:
        return build.build(tmp_path_factory.mktemp("native") / native.LIBRARY)
    except BridgeError as error:
        if "failed on" in error.what:
            raise
        pytest.skip(f"the library cannot be built here: {error.what}; {error.why}")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a saved module (two layers of 64, batch 1 to 16), its engine by itself, and what it computes."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(64, 64, generator=generator).div(8) for _ in range(2))
    x, h, r, y = (gs.Variable(name, np.float32, ["batch", 64]) for name in "xhry")
    nodes = [
        gs.Node("MatMul", "a#1", {}, [x, gs.Constant("w1", first.numpy())], [h]),
        gs.Node("Relu", "b#2", {}, [h], [r]),
        gs.Node("MatMul", "c#3", {}, [r, gs.Constant("w2", second.numpy())], [y]),
    ]
    profile = {"x": ((1, 64), (4, 64), (16, 64))}
    settings = BuildSettings(disable_tf32=True, optimization_level=1)
    plan = select("tensorrt").build(gs.Graph(nodes, [x], [y], opset=18), [profile], settings)
    folder = tmp_path_factory.mktemp("saved")
    torch.jit.save(embed_engine_in_new_module(plan), folder / "model.ts")
    (folder / "model.engine").write_bytes(plan.section("engine").tobytes())
    torch.save((first, second), folder / "weights.pt")
    counted = torch.arange(4 * 64, dtype=torch.float32).mul(0.001).view(4, 64)
    torch.save(torch.relu(counted @ first) @ second, folder / "counted.pt")
    return folder


def python(code: str, folder: Path, **environment: str) -> str:
    """What a fresh process prints that runs this code; its failure is the test's."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PRELUDE + code],
        cwd=folder,
        env=environment_of(**environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error" not in done.stderr.lower(), done.stderr
    return done.stdout


def environment_of(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", **changes}


PRELUDE = """
import gc, resource, threading, torch, bridge
from bridge.runtime import native
first, second = (weight.cuda() for weight in torch.load("weights.pt"))
eager = lambda x: torch.relu(x.float() @ first) @ second
close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
module = torch.jit.load("model.ts")
"""

SERVER = """
import contextlib, gc, io, json, sys, traceback
import bridge
for line in sys.stdin:
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard):
        try:
            exec(json.loads(line), {})
            failed = ""
        except BaseException:
            failed = traceback.format_exc()
        gc.collect()
    print(json.dumps([heard.getvalue(), failed]), flush=True)
"""


class Interpreter:
    """A process that runs one snippet after the other: importing takes longer than most tests."""

    def __init__(self, folder: Path, **environment: str) -> None:
        errors = folder / f"errors of {environment['BRIDGE_RUNTIME']}"
        self._told, self._errors = errors.open("w"), errors.open()
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-u", "-c", SERVER],
            cwd=folder,
            env=environment_of(**environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._told,
            text=True,
        )

    def run(self, code: str) -> str:
        """What it prints; its failure is the test's."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(PRELUDE + code) + "\n")
        self._process.stdin.flush()
        watch = threading.Timer(90, self._process.kill)  # then the answer is the end of the file
        watch.start()
        answer = self._process.stdout.readline()
        watch.cancel()
        said = self._errors.read()  # what is new in it
        assert answer, f"the process died or took too long: {said[-3000:]}"
        heard, failed = json.loads(answer)
        assert not failed, failed
        assert "error" not in said.lower(), said
        return heard

    def close(self) -> int:
        """Ends it; its exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        status = self._process.wait(timeout=60)
        self._told.close()
        self._errors.close()
        return status


@pytest.fixture(scope="module")
def interpreters(library, saved):
    both = [
        Interpreter(saved, BRIDGE_RUNTIME="native", BRIDGE_RUNTIME_LIBRARY=str(library)),
        Interpreter(saved, BRIDGE_RUNTIME="python"),
    ]
    yield both
    assert [interpreter.close() for interpreter in both] == [0, 0]


@pytest.fixture
def run(interpreters):
    def in_both(code: str) -> list[str]:
        """What the code prints under the library and under Python alone."""
        return [interpreter.run(code) for interpreter in interpreters]

    return in_both


def test_which_implementation_runs(run):
    assert [text.strip() for text in run("print(native.implementation())")] == ["native", "python"]


@pytest.mark.skipif(
    not {"BRIDGE_RUNTIME", "BRIDGE_RUNTIME_LIBRARY"}.isdisjoint(os.environ), reason="who names one runs those by itself"
)
def test_the_tests_of_the_operator_pass_with_the_library(library):
    """All that tests/gpu/test_runtime.py asks of one implementation the other does too."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/test_runtime.py"],
        cwd=ROOT,
        env={**os.environ, "BRIDGE_RUNTIME": "native", "BRIDGE_RUNTIME_LIBRARY": str(library)},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]


def test_the_same_numbers(run):
    code = """
torch.manual_seed(0)
for batch in (4, 1, 16, 3, 4):
    x = torch.randn(batch, 64, device="cuda")
    close(module(x), eager(x))
    print(module(x).double().sum().item())
    with torch.cuda.stream(torch.cuda.Stream()):
        y = x.clone().t().contiguous().t()
        close(module(y), eager(x))
        torch.cuda.synchronize()
"""
    by_library, by_python = run(code)
    assert by_library == by_python


def test_errors_have_one_text(run):
    code = """
for wrong in (
    torch.zeros(17, 64, device="cuda"),
    torch.zeros(4, 64, 1, device="cuda"),
    torch.zeros(4, 65, device="cuda"),
    torch.zeros(4, 64),
    torch.zeros(4, 64, dtype=torch.int32, device="cuda"),
):
    try:
        module(wrong)
    except RuntimeError as error:
        text = str(error)  # TorchScript tells where Python raised it
        print(text[text.index("input 'x'"):].partition("\\nAt:")[0].strip())
    else:
        print("no error")
"""
    by_library, by_python = run(code)
    assert by_library == by_python
    assert "no error" not in by_library


def test_sixteen_threads_on_their_streams_and_on_one(run):
    code = """
failures = []
def work(seed):
    try:
        with torch.cuda.stream(torch.cuda.Stream() if seed % 2 else torch.cuda.default_stream()):
            for step in range(100):
                x = torch.full((1 + (seed + step) % 16, 64), float(seed), device="cuda")
                close(module(x), eager(x))
    except BaseException as error:
        failures.append(error)
threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(16)]
[thread.start() for thread in threads]
[thread.join(60) for thread in threads]
assert not any(thread.is_alive() for thread in threads)
assert not failures, failures[0]
"""
    run(code)


def test_memory_stays_flat(run):
    code = """
x = torch.randn(4, 64, device="cuda")
inputs = [torch.randn(batch, 64, device="cuda") for batch in range(1, 17)]
side = torch.cuda.Stream()
def call(times):
    for index in range(times):
        module(inputs[index % 16])
        with torch.cuda.stream(side):
            module(x)
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
before, peak = call(200), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
after = call(4000)
assert after == before, (before, after)
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < peak + (16 << 10)  # KiB
"""
    run(code)


def test_engines_go_with_their_modules(run):
    code = """
x = torch.zeros(4, 64, device="cuda")
module(x)
twin = torch.jit.load("model.ts")
twin(x)
torch.cuda.synchronize()
with_engine = torch.cuda.memory_allocated()
del module, twin
gc.collect()
print(torch.cuda.memory_allocated() < with_engine)
"""
    assert [text.strip() for text in run(code)] == ["True", "True"]


def test_cuda_graphs_in_a_loaded_module(run):
    code = """
bridge.configure(module, cuda_graphs=True)
torch.jit.save(module, "graphs.ts")
for module in (module, torch.jit.load("graphs.ts")):
    for stream in (torch.cuda.default_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            for batch in (4, 16, 4, 9, 4):
                x = torch.randn(batch, 64, device="cuda")
                one, other = module(x), module(x + 1)
                close(one, eager(x))
                close(other, eager(x + 1))
            for batch in range(1, 17):
                x = torch.randn(batch, 64, device="cuda")
                close(module(x), eager(x))
torch.cuda.synchronize()
"""
    run(code)


@pytest.mark.parametrize("runtime", ["native", "python"])
def test_a_process_ends_cleanly_that_still_holds_its_engine(library, saved, runtime):
    code = """
import builtins
builtins.kept = [module, torch.jit.load("model.ts")]
with torch.cuda.stream(torch.cuda.Stream()):
    x = torch.randn(4, 64, device="cuda")
    close(module(x), eager(x))
    for _ in range(5):
        close(kept[1](x), eager(x))
"""
    python(code, saved, BRIDGE_RUNTIME=runtime, BRIDGE_RUNTIME_LIBRARY=str(library))


def test_plans_of_other_backends_run_in_python(library, saved, tmp_path):
    x, y = gs.Variable("x", np.float32, ["n", 4]), gs.Variable("y", np.float32, ["n", 4])
    graph = gs.Graph([gs.Node("Relu", "r#1", {}, [x], [y])], [x], [y], opset=18)
    plan = select("onnxruntime").build(graph, [{"x": ((1, 4), (2, 4), (4, 4))}])
    torch.jit.save(embed_engine_in_new_module(plan), tmp_path / "model.ts")
    shutil.copy(saved / "weights.pt", tmp_path)
    code = """
assert native.implementation() == "native"
x = torch.randn(3, 4)
assert torch.equal(module(x), x.relu())
assert torch.equal(module(x.cuda()), x.cuda().relu())
"""
    python(code, tmp_path, BRIDGE_RUNTIME="native", BRIDGE_RUNTIME_LIBRARY=str(library))


def test_a_module_saved_after_a_run_runs_in_both(run, saved):
    code = """
x = torch.arange(256.0, device="cuda").mul(0.001).view(4, 64)
y = module(x)
torch.jit.save(module, "again.ts")
close(torch.jit.load("again.ts", map_location="cuda")(x), y)
close(torch.jit.load("again.ts")(x).cpu(), torch.load("counted.pt"))
"""
    run(code)


@pytest.fixture(scope="module")
def programs(library, tmp_path_factory):
    """The folder with the C++ examples, built as docs/cpp.md says."""
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake here")
    folder = tmp_path_factory.mktemp("examples")
    configure = [
        "cmake", "-S", str(EXAMPLES), "-B", str(folder), f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}",
        f"-DBRIDGE_RUNTIME_LIBRARY={library}",
    ]  # fmt: skip
    for command in (configure, ["cmake", "--build", str(folder), "-j4"]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def values(line: str) -> torch.Tensor:
    return torch.tensor([float(word) for word in line.split(":")[1].split()])


@pytest.mark.parametrize(("program", "file"), [("run_module", "model.ts"), ("run_engine", "model.engine")])
def test_programs_in_cpp(programs, saved, program, file):
    expected = torch.load(saved / "counted.pt").flatten()[:8]
    done = subprocess.run(
        [programs / program, saved / file, "4x64"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(values(done.stdout), expected, rtol=1e-3, atol=1e-3)
    wrong = subprocess.run(
        [programs / program, saved / file, "17x64"], capture_output=True, text=True, timeout=120, check=False
    )
    assert wrong.returncode == 1
    assert "17" in wrong.stderr or "does not take" in wrong.stderr


def test_the_time_of_a_call(run):
    """From TorchScript on a stream of its own: the library's calls cost less than Python's."""
    code = """
import json, time
x = torch.randn(4, 64, device="cuda")
bridge.configure(module, cuda_graphs=False)
def microseconds():
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(200):
        module(x)
    return (time.perf_counter() - start) / 200 * 1e6
with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream()):
    print(json.dumps(min(microseconds() for _ in range(20))))
"""
    by_library, by_python = (json.loads(text) for text in run(code))
    assert by_library < by_python
