#include "lane.h"

#include <algorithm>
#include <utility>

#include <cuda_runtime_api.h>

#include "cuda_graphs.h"
#include "error.h"
#include "session.h"
#include "tensorrt.h"

namespace bridge {

namespace {

constexpr size_t kMostGraphs = 8;

bool is_capturing(cudaStream_t stream) {
  auto status = cudaStreamCaptureStatusNone;
  // the default stream never is
  return stream != nullptr && cudaStreamIsCapturing(stream, &status) == cudaSuccess &&
      status != cudaStreamCaptureStatusNone;
}

} // namespace

Lane::Lane(Session& session, c10::cuda::CUDAStream stream) : session_(session), stream_(stream) {
  if (stream.stream() == nullptr) {
    beside_ = c10::cuda::getStreamFromPool(/*isHighPriority=*/false, session.device.index());
  }
}

Lane::~Lane() = default;

void Lane::close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  if (recorded_.empty()) {
    (void)cudaStreamSynchronize((beside_ ? *beside_ : stream_).stream());
  } else {
    (void)cudaDeviceSynchronize(); // the callers' graphs run on any stream
  }
  graphs_.clear();
  recorded_.clear();
  context_.reset();
  before_ = at::cuda::CUDAEvent();
  after_ = at::cuda::CUDAEvent();
}

std::vector<at::Tensor> Lane::run(const CallKind& kind, at::TensorList inputs) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) {
    fail("this engine was closed");
  }
  if (is_capturing(stream_.stream())) {
    return recorded_by_caller(kind, inputs);
  }
  if (kind.cuda_graphs) {
    if (CapturedCall* captured = graph(kind, inputs)) {
      return captured->replay(inputs);
    }
  }
  if (context_ == nullptr) {
    context_ = std::make_shared<Context>(session_);
  }
  return run_on(*context_, kind, inputs);
}

std::vector<at::Tensor> Lane::run_on(Context& context, const CallKind& kind, at::TensorList inputs) {
  if (!beside_) {
    return context.run(kind, inputs, stream_.stream(), [] {});
  }
  auto outputs = context.run(kind, inputs, beside_->stream(), [this] {
    before_.record(stream_);
    before_.block(*beside_);
  });
  after_.record(*beside_);
  after_.block(stream_);
  return outputs;
}

// The CUDA graph for these shapes, captured on first use; null where that was impossible.
CapturedCall* Lane::graph(const CallKind& kind, at::TensorList inputs) {
  auto found = std::find_if(graphs_.begin(), graphs_.end(), [&](const auto& item) { return item.first == kind.id; });
  if (found == graphs_.end()) {
    if (graphs_.size() >= kMostGraphs) {
      stream_.synchronize(); // it may still be running
      graphs_.pop_front();
    }
    graphs_.emplace_back(kind.id, capture(kind, inputs));
  } else {
    graphs_.splice(graphs_.end(), graphs_, found);
  }
  return graphs_.back().second.get();
}

std::unique_ptr<CapturedCall> Lane::capture(const CallKind& kind, at::TensorList inputs) {
  auto context = std::make_unique<Context>(session_); // a graph needs one that nothing else changes
  std::string why;
  if (session_.host_inputs) {
    why = "the values of an input decide shapes";
  } else if (!context->shapes_decide(kind, inputs, (beside_ ? *beside_ : stream_).stream())) {
    why = "the data decide the shape of an output";
  } else {
    try {
      return std::make_unique<CapturedCall>(std::move(context), kind, inputs);
    } catch (const c10::Error& error) {
      why = error.what_without_backtrace();
    }
  }
  warn("an engine runs without CUDA graphs: " + why);
  return nullptr;
}

std::shared_ptr<Context> Lane::give_away(const CallKind& kind) {
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock() || context_ == nullptr || !context_->has_run(kind)) {
    return nullptr;
  }
  return std::exchange(context_, nullptr);
}

// A call inside the caller's own capture. The graph needs a context that no later call changes, one that has run these shapes
// before (TensorRT prepares in the first run, which cannot be captured): that of the warm-up is given to the graph, and stays
// with the engine, as nothing tells when the graph ends. Its scratch memory comes from the graph's own pool.
std::vector<at::Tensor> Lane::recorded_by_caller(const CallKind& kind, at::TensorList inputs) {
  std::shared_ptr<Context> context = context_ != nullptr && context_->has_run(kind)
      ? std::exchange(context_, nullptr)
      : session_.give_away(kind, *this);
  for (const auto& [known, mine] : recorded_) {
    if (context == nullptr && known.sizes == kind.sizes && known.profile == kind.profile) {
      context = mine; // two calls in one graph follow one another
    }
  }
  if (context == nullptr) {
    fail(
        "this engine has not run these shapes yet, so that its call cannot be captured into a CUDA graph",
        "TensorRT prepares in the first run with new shapes",
        "call the module once with inputs of these shapes before the capture");
  }
  recorded_.emplace_back(kind, context);
  return run_on(*context, kind, inputs);
}

} // namespace bridge
