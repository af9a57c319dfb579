#pragma once

#include <ATen/cuda/CUDAGraph.h>

#include "context.h"

namespace bridge {

// A CUDA graph of one engine call, with memory of its own for inputs, outputs and activations.
class CapturedCall {
 public:
  // Throws c10::Error when the call cannot be captured. `context` is used by nothing else.
  CapturedCall(std::unique_ptr<Context> context, const CallKind& kind, at::TensorList inputs);

  // Runs on the current stream; the results are copies, as the next replay overwrites its own.
  std::vector<at::Tensor> replay(at::TensorList inputs);

 private:
  std::unique_ptr<Context> context_;
  std::vector<at::Tensor> inputs_, outputs_;
  at::cuda::CUDAGraph graph_;
};

} // namespace bridge
