"""The first builder of a process is made beside other work; what is in the way of it is told where it is needed."""

import dataclasses
import subprocess
import sys
import threading

import pytest
import torch

import bridge
from bridge.backends import tensorrt_builder
from bridge.errors import BuildError

trt = pytest.importorskip("tensorrt_rtx")
NAME = "tensorrt_rtx"


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
    monkeypatch.setattr(tensorrt_builder, "_begun", {})
    monkeypatch.setattr(tensorrt_builder, "_staying", {})


@pytest.fixture
def first():
    return tensorrt_builder._first(NAME)


@pytest.fixture
def told(monkeypatch, first):
    """The library's function is done when this is set."""
    told = threading.Event()
    slow = dataclasses.replace(first, create=lambda *given: told.wait(30) and first.create(*given))
    monkeypatch.setattr(tensorrt_builder, "_first", lambda name: slow)
    yield told
    told.set()


def waits_for(told, make):
    """What is made, which is not made before it is told."""
    made = []
    maker = threading.Thread(target=lambda: made.append(make()))
    maker.start()
    maker.join(0.2)
    assert maker.is_alive() and not made
    told.set()
    maker.join(30)
    return made[0]


def test_work_goes_on_beside_it_and_who_needs_a_builder_waits(told):
    with tensorrt_builder.beside(NAME), tensorrt_builder.beside(NAME):
        assert isinstance(waits_for(told, lambda: tensorrt_builder.builder(NAME, [])), trt.Builder)


def test_others_that_make_a_builder_wait_too_and_only_meanwhile(told):
    own, logger = vars(trt.Builder)["__init__"], trt.Logger()
    with tensorrt_builder.beside(NAME):
        assert isinstance(waits_for(told, lambda: trt.Builder(logger)), trt.Builder)
    assert vars(trt.Builder)["__init__"] is own


def test_it_is_there_when_what_began_it_ends(told):
    def ends():
        with pytest.raises(KeyError), tensorrt_builder.beside(NAME):
            begun.set()
            raise KeyError

    begun = threading.Event()
    ending = threading.Thread(target=ends)
    ending.start()
    assert begun.wait(30)
    ending.join(0.2)
    assert ending.is_alive()
    told.set()
    ending.join(30)
    assert not ending.is_alive()


def test_the_library_makes_one(first):
    assert first.create(first.logger, first.version)


def test_where_the_library_cannot_be_called_the_bindings_make_it(monkeypatch):
    monkeypatch.setitem(tensorrt_builder._LIBRARIES, NAME, "libnothing.so")
    with tensorrt_builder.beside(NAME):
        assert not tensorrt_builder._begun
        assert isinstance(tensorrt_builder.builder(NAME, []), trt.Builder)


def test_what_fails_is_told_to_who_needs_a_builder(monkeypatch, capsys, first):
    def fails(*given):
        raise TypeError("no GPU")

    monkeypatch.setattr(tensorrt_builder, "_first", lambda name: dataclasses.replace(first, create=fails))
    with tensorrt_builder.beside(NAME):
        monkeypatch.setattr(trt, "Builder", fails)
        with pytest.raises(BuildError, match="TensorRT-RTX cannot build on this machine"):
            tensorrt_builder.builder(NAME, [])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("backend", "expected"), [("onnxruntime", []), (NAME, [NAME])])
def test_only_a_compilation_for_tensorrt_begins_one(monkeypatch, backend, expected):
    begun, own = [], tensorrt_builder._begin
    monkeypatch.setattr(tensorrt_builder, "_begin", lambda name, device: begun.append(name) or own(name, device))
    module = torch.jit.trace(torch.nn.Linear(4, 4).eval(), torch.rand(2, 4), check_trace=False)
    bridge.compile(module, [(2, 4)], backend=backend)
    assert begun == expected


def test_a_process_ends_while_it_is_being_made():
    code = f"import sys; from bridge.backends import select; select({NAME!r}).begun().__enter__(); sys.exit(3)"
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (3, "")
