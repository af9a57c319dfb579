"""TensorRT for RTX: parses and builds with no GPU, and finishes the kernels on the GPU that runs them."""

from bridge.backends.tensorrt_family import TensorRTBackend

BACKEND = TensorRTBackend("tensorrt_rtx")
