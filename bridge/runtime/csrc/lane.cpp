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
// Of calls that repeat: how often one runs before it is captured; how many graphs there may be at once; how many sets of
// addresses are watched; for how many calls a graph that is not launched keeps its place, and how many there are to each capture
// but the first ones: a capture takes about as long as a call.
constexpr int kTimes = 3;
constexpr size_t kMostRepeats = 2, kMostWatched = 8;
constexpr uint64_t kPatience = 32, kFirstCaptures = 4;
constexpr size_t kMostLayouts = 64;

bool is_capturing(cudaStream_t stream) {
  auto status = cudaStreamCaptureStatusNone;
  // the default stream never is
  return stream != nullptr && cudaStreamIsCapturing(stream, &status) == cudaSuccess &&
      status != cudaStreamCaptureStatusNone;
}

} // namespace

Lane::Lane(Session& session, c10::cuda::CUDAStream stream)
    : session_(session), stream_(stream), repeats_(session.why_not_repeated.empty()) {
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
  repeated_.clear();
  spent_.clear();
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
  return repeats_ && kind.cuda_graphs.value_or(true) ? run_repeatedly(kind, inputs) : run_anew(kind, inputs);
}

// A call that is not launched as one that repeats. Its outputs go to `memory`, if that is given.
std::vector<at::Tensor> Lane::run_anew(const CallKind& kind, at::TensorList inputs, Memory* memory) {
  if (kind.cuda_graphs.value_or(false)) {
    if (CapturedCall* captured = graph(kind, inputs)) {
      return captured->replay(inputs, memory == nullptr ? std::vector<at::Tensor>() : std::move(memory->outputs));
    }
  }
  return run_on(context(), kind, inputs, memory);
}

Context& Lane::context() {
  if (context_ == nullptr) {
    context_ = std::make_shared<Context>(session_);
  }
  return *context_;
}

std::vector<at::Tensor> Lane::run_on(Context& context, const CallKind& kind, at::TensorList inputs, Memory* memory) {
  if (!beside_) {
    return context.run(kind, inputs, stream_.stream(), [] {}, memory);
  }
  auto outputs = context.run(kind, inputs, beside_->stream(), [this] {
    before_.record(stream_);
    before_.block(*beside_);
  }, memory);
  after_.record(*beside_);
  after_.block(stream_);
  return outputs;
}

// A call whose memory is allocated before it is known who runs it: the context, or, where inputs, outputs and scratch memory are
// where they were in calls before, the CUDA graph of those. Steady callers get the same addresses from the allocator again and
// again; a graph that writes where this call's outputs are needs no copies, and the outputs are the caller's as ever.
std::vector<at::Tensor> Lane::run_repeatedly(const CallKind& kind, at::TensorList inputs) {
  const Layout* layout = layout_of(kind, inputs);
  if (layout == nullptr || !std::all_of(inputs.begin(), inputs.end(), is_aligned)) {
    return run_anew(kind, inputs);
  }
  Memory memory = allocate(session_, *layout);
  Repeated& call = repeated(kind, inputs, memory);
  if (call.graph != nullptr) {
    call.graph->launch(stream_.stream());
    return std::move(memory.outputs);
  }
  if (++call.times < kTimes || !has_room()) {
    call.times %= kTimes;
    return run_anew(kind, inputs, &memory);
  }
  auto outputs = run_on(context(), kind, inputs, &memory);
  capture_repeated(call);
  return outputs;
}

// What follows from the shapes; null where the data decide more.
const Layout* Lane::layout_of(const CallKind& kind, at::TensorList inputs) {
  const auto known = layouts_.find(kind.id);
  if (known != layouts_.end()) {
    return known->second.is_known() ? &known->second : nullptr;
  }
  if (layouts_.size() >= kMostLayouts) {
    layouts_.clear();
  }
  const Layout& made = context().layout(kind, inputs, (beside_ ? *beside_ : stream_).stream());
  const Layout& kept = layouts_.emplace(kind.id, made).first->second;
  return kept.is_known() ? &kept : nullptr;
}

// The record of such calls; one without a graph, the least recently seen, makes room for another.
Lane::Repeated& Lane::repeated(const CallKind& kind, at::TensorList inputs, const Memory& memory) {
  c10::SmallVector<const void*, 8> addresses;
  for (const at::Tensor& tensor : inputs) {
    addresses.push_back(tensor.const_data_ptr());
  }
  for (const at::Tensor& tensor : memory.outputs) {
    addresses.push_back(tensor.const_data_ptr());
  }
  addresses.push_back(memory.scratch.get());
  ++calls_;
  Repeated* oldest = nullptr;
  for (Repeated& item : repeated_) {
    if (item.kind == kind.id && item.addresses == addresses) {
      item.last = calls_;
      return item;
    }
    if (item.graph == nullptr && (oldest == nullptr || item.last < oldest->last)) {
      oldest = &item;
    }
  }
  if (repeated_.size() < kMostWatched) {
    oldest = &repeated_.emplace_back();
  }
  *oldest = {kind.id, std::move(addresses), 0, calls_, nullptr};
  return *oldest;
}

// Whether there may be one more graph; where there are enough, one that was not launched for long makes room, unless it may
// still be running.
bool Lane::has_room() {
  std::vector<Repeated*> graphs;
  for (Repeated& item : repeated_) {
    if (item.graph != nullptr) {
      graphs.push_back(&item);
    }
  }
  if (captures_ >= kFirstCaptures + calls_ / kPatience) {
    return false;
  }
  if (graphs.size() < kMostRepeats) {
    return true;
  }
  Repeated& oldest = **std::min_element(
      graphs.begin(), graphs.end(), [](const auto* one, const auto* other) { return one->last < other->last; });
  if (calls_ - oldest.last < kPatience || !stream_.query()) {
    return false;
  }
  oldest.graph.reset();
  oldest.times = 0;
  return true;
}

// Captures a call that the context has just run; the context goes to the graph.
void Lane::capture_repeated(Repeated& call) {
  call.times = 0;
  try {
    call.graph = std::make_shared<const Replay>(std::exchange(context_, nullptr));
    ++captures_;
  } catch (const c10::Error& error) {
    repeats_ = false;
    tell(std::string("an engine's calls are not captured: ") + error.what_without_backtrace());
  }
}

// The context of a graph of ours that has run these shapes; the graph goes.
std::shared_ptr<Context> Lane::taken_from_graphs(const CallKind& kind) {
  for (Repeated& item : repeated_) {
    if (item.graph != nullptr && item.graph->context()->has_run(kind)) {
      spent_.push_back(std::exchange(item, {}).graph); // it may still be running
      return spent_.back()->context();
    }
  }
  return nullptr;
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
  } else if (!context->layout(kind, inputs, (beside_ ? *beside_ : stream_).stream()).is_known()) {
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
  return lock.owns_lock() ? given_away(kind) : nullptr;
}

std::shared_ptr<Context> Lane::given_away(const CallKind& kind) {
  return context_ != nullptr && context_->has_run(kind) ? std::exchange(context_, nullptr) : taken_from_graphs(kind);
}

// A call inside the caller's own capture. The graph needs a context that no later call changes, one that has run these shapes
// before (TensorRT prepares in the first run, which cannot be captured): that of the warm-up is given to the graph, and stays
// with the engine, as nothing tells when the graph ends. Its scratch memory comes from the graph's own pool.
std::vector<at::Tensor> Lane::recorded_by_caller(const CallKind& kind, at::TensorList inputs) {
  std::shared_ptr<Context> context = given_away(kind);
  if (context == nullptr) {
    context = session_.give_away(kind, *this);
  }
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
