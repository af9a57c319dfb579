"""TensorRT 10 and 11: builds on the GPU that the engine is for."""

from bridge.backends.tensorrt_family import TensorRTBackend

BACKEND = TensorRTBackend("tensorrt")
