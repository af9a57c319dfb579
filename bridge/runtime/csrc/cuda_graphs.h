#pragma once

#include <ATen/cuda/CUDAGraph.h>

#include "context.h"

namespace bridge {

// A CUDA graph of one engine call, with memory of its own for inputs, outputs and activations.
class CapturedCall {
 public:
  // Throws c10::Error when the call cannot be captured. `context` is used by nothing else.
  CapturedCall(std::unique_ptr<Context> context, const CallKind& kind, at::TensorList inputs);

  // Runs on the current stream; the results are copies, as the next replay overwrites its own: in `outputs`, or, where that is
  // empty, in new tensors.
  std::vector<at::Tensor> replay(at::TensorList inputs, std::vector<at::Tensor> outputs);

 private:
  std::unique_ptr<Context> context_;
  std::vector<at::Tensor> inputs_, outputs_;
  at::cuda::CUDAGraph graph_;
};

// A CUDA graph of one engine call with the very addresses that the call had: nothing is copied, and what it reads and writes is
// the caller's.
class Replay {
 public:
  // Throws c10::Error when the call cannot be captured.
  //   context: has just run the call, and is used by nothing else.
  explicit Replay(std::shared_ptr<Context> context);
  ~Replay();

  // How many there are.
  static size_t count();

  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  void launch(cudaStream_t stream) const;

  const std::shared_ptr<Context>& context() const {
    return context_;
  }

 private:
  std::shared_ptr<Context> context_;
  cudaGraphExec_t graph_ = nullptr;
};

} // namespace bridge
