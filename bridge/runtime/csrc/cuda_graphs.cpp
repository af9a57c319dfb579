#include "cuda_graphs.h"

#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>

#include <atomic>

#include "tensorrt.h"

namespace bridge {

namespace {

std::atomic<size_t> replays{0};

// A stream of its own: on the caller's, what other threads enqueue meanwhile would be captured, too.
class Aside {
 public:
  Aside() {
    C10_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  }
  ~Aside() {
    (void)cudaStreamDestroy(stream);
  }
  Aside(const Aside&) = delete;
  Aside& operator=(const Aside&) = delete;

  cudaStream_t stream = nullptr;
};

} // namespace

CapturedCall::CapturedCall(std::unique_ptr<Context> context, const CallKind& kind, at::TensorList inputs)
    : context_(std::move(context)) {
  lasting([&] {
    for (const at::Tensor& tensor : inputs) {
      inputs_.push_back(tensor.clone());
    }
  });
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const auto side = c10::cuda::getStreamFromPool(/*isHighPriority=*/false, stream.device_index());
  at::cuda::CUDAEvent before, after;
  before.record(stream);
  before.block(side);
  const c10::cuda::CUDAStreamGuard guard(side);
  const auto run = [&] { return context_->run(kind, inputs_, side.stream(), [] {}); };
  run(); // TensorRT prepares in the first run with new shapes, which cannot be captured
  graph_.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
  try {
    outputs_ = run();
  } catch (...) {
    try {
      graph_.capture_end();
    } catch (const std::exception&) { // that it failed is being told already
    }
    throw;
  }
  graph_.capture_end();
  after.record(side);
  after.block(stream);
}

std::vector<at::Tensor> CapturedCall::replay(at::TensorList inputs, std::vector<at::Tensor> outputs) {
  for (size_t index = 0; index < inputs_.size(); ++index) {
    inputs_[index].copy_(inputs[index], /*non_blocking=*/true);
  }
  graph_.replay();
  outputs.resize(outputs_.size());
  for (size_t index = 0; index < outputs_.size(); ++index) {
    if (outputs[index].defined()) {
      outputs[index].copy_(outputs_[index], /*non_blocking=*/true);
    } else {
      outputs[index] = outputs_[index].clone();
    }
  }
  return outputs;
}

Replay::Replay(std::shared_ptr<Context> context) : context_(std::move(context)) {
  const Aside aside;
  const Attempt attempt; // memory that is given back after the capture would be another's when the graph is launched
  C10_CUDA_CHECK(cudaStreamBeginCapture(aside.stream, cudaStreamCaptureModeThreadLocal));
  cudaGraph_t captured = nullptr;
  try {
    context_->repeat(aside.stream);
  } catch (...) {
    (void)cudaStreamEndCapture(aside.stream, &captured);
    if (captured != nullptr) {
      (void)cudaGraphDestroy(captured);
    }
    (void)cudaGetLastError(); // that it failed is being told already
    throw;
  }
  C10_CUDA_CHECK(cudaStreamEndCapture(aside.stream, &captured));
  const cudaError_t made = cudaGraphInstantiate(&graph_, captured, 0);
  (void)cudaGraphDestroy(captured);
  C10_CUDA_CHECK(made);
  ++replays;
}

size_t Replay::count() {
  return replays;
}

Replay::~Replay() {
  --replays;
  (void)cudaGraphExecDestroy(graph_);
}

void Replay::launch(cudaStream_t stream) const {
  C10_CUDA_CHECK(cudaGraphLaunch(graph_, stream));
}

} // namespace bridge
