"""The first builder of a process is made beside other work; what is in the way of it is told where it is needed."""

import subprocess
import sys
import threading

import pytest
import torch

import bridge
from bridge.backends import select, tensorrt_builder
from bridge.errors import BuildError

trt = pytest.importorskip("tensorrt_rtx")
NAME = "tensorrt_rtx"


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
    monkeypatch.setattr(tensorrt_builder, "_begun", {})
    monkeypatch.setattr(tensorrt_builder, "_staying", {})


class Slow:
    """Stands for the library's function: is done when it is told to be."""

    def __init__(self):
        self.made, self.told = [], threading.Event()

    def make(self, *given):
        assert self.told.wait(30)
        self.made.append(given)


@pytest.fixture
def slow(monkeypatch):
    found = Slow()
    monkeypatch.setattr(tensorrt_builder, "_first", lambda name: found)
    yield found
    found.told.set()


def test_work_goes_on_beside_it_and_who_needs_a_builder_waits(slow):
    tensorrt_builder.begin(NAME)
    tensorrt_builder.begin(NAME)
    built = []
    waits = threading.Thread(target=lambda: built.append(tensorrt_builder.builder(NAME, [])))
    waits.start()
    waits.join(0.2)
    assert waits.is_alive() and not built and not slow.made
    slow.told.set()
    waits.join(30)
    assert isinstance(built[0], trt.Builder)
    assert len(slow.made) == 1


def test_the_library_makes_one():
    first = tensorrt_builder._first(NAME)
    assert first is not None and first.create(first.logger, first.version)


def test_where_the_library_cannot_be_called_the_bindings_make_it(monkeypatch):
    monkeypatch.setitem(tensorrt_builder._LIBRARIES, NAME, "libnothing.so")
    tensorrt_builder.begin(NAME)
    assert not tensorrt_builder._begun
    assert isinstance(tensorrt_builder.builder(NAME, []), trt.Builder)


def test_what_fails_is_told_to_who_needs_a_builder(monkeypatch, capsys):
    def fails(*given):
        raise TypeError("no GPU")

    first = tensorrt_builder._first(NAME)
    refused = tensorrt_builder._First(fails, first.logger, first.version, first.runtime)
    monkeypatch.setattr(tensorrt_builder, "_first", lambda name: refused)
    monkeypatch.setattr(trt, "Builder", fails)
    tensorrt_builder.begin(NAME)
    with pytest.raises(BuildError, match="TensorRT-RTX cannot build on this machine"):
        tensorrt_builder.builder(NAME, [])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("backend", "expected"), [("onnxruntime", []), (NAME, [NAME])])
def test_only_a_compilation_for_tensorrt_begins_one(monkeypatch, backend, expected):
    begun = []
    monkeypatch.setattr(tensorrt_builder, "begin", lambda name, device: begun.append(name))
    module = torch.jit.trace(torch.nn.Linear(4, 4).eval(), torch.rand(2, 4), check_trace=False)
    bridge.compile(module, [(2, 4)], backend=backend)
    assert begun == expected


def test_a_backend_begins_its_own(slow):
    select(NAME).begin(torch.device("cpu"))
    assert list(tensorrt_builder._begun) == [NAME]


def test_a_process_ends_while_it_is_being_made():
    code = f"import sys; from bridge.backends import select; select({NAME!r}).begin(); sys.exit(3)"
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (3, "")
