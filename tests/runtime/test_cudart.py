"""CUDA graphs by CUDA's own functions, as far as no GPU is needed; tests/gpu/test_runtime.py has the rest."""

import pytest
import torch

from bridge.runtime import cudart


class Library:
    """Stands for libcudart: counts what is made and destroyed; one function may fail."""

    def __init__(self, failing=None):
        self.failing, self.said, self.alive = failing, [], {"stream": 0, "graph": 0, "exec": 0}

    def __getattr__(self, name):
        def function(*arguments):
            self.said.append(name)
            if name == self.failing:
                return 900
            made = {
                "cudaStreamCreateWithFlags": "stream",
                "cudaStreamEndCapture": "graph",
                "cudaGraphInstantiate": "exec",
            }
            gone = {"cudaStreamDestroy": "stream", "cudaGraphDestroy": "graph", "cudaGraphExecDestroy": "exec"}
            if name in made:
                self.alive[made[name]] += 1
                target = arguments[1] if name == "cudaStreamEndCapture" else arguments[0]
                target._obj.value = 1000 + len(self.said)
            if name in gone:
                self.alive[gone[name]] -= 1
            return 0

        return function


@pytest.fixture
def library(monkeypatch):
    def use(failing=None):
        fake = Library(failing)
        monkeypatch.setattr(cudart, "_runtime", lambda: fake)
        return fake

    return use


def test_what_is_captured_is_launched(library):
    fake, streams = library(), []
    graph = cudart.Graph(streams.append)
    assert len(streams) == 1 and streams[0]
    assert fake.alive == {"stream": 0, "graph": 0, "exec": 1}
    graph.launch(7)
    graph.launch(0)
    assert fake.said.count("cudaGraphLaunch") == 2
    del graph
    assert fake.alive["exec"] == 0


@pytest.mark.parametrize(
    "name", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphLaunch"]
)
def test_what_fails_is_an_error_and_leaves_nothing_behind(library, name):
    fake = library(name)
    with pytest.raises(RuntimeError, match=f"{name}: CUDA error 900"):
        cudart.Graph(lambda stream: None).launch(7)
    assert fake.alive == {"stream": 0, "graph": 0, "exec": 0}


def test_a_function_that_fails_ends_the_capture(library):
    fake = library()

    def enqueue(stream):
        raise KeyError("why")

    with pytest.raises(KeyError, match="why"):
        cudart.Graph(enqueue)
    assert "cudaStreamEndCapture" in fake.said
    assert fake.alive == {"stream": 0, "graph": 0, "exec": 0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_is_an_error():
    with pytest.raises(RuntimeError, match="CUDA"):
        cudart.Graph(lambda stream: None)
