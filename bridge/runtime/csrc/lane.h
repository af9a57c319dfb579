#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAEvent.h>
#include <NvInferRuntime.h>
#include <c10/cuda/CUDAStream.h>

#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

namespace bridge {

class Session;
class OutputAllocator;

// The shapes of a call in the engine's order, and the profile asked for. Equal ids mean equal shapes and profiles.
struct Shapes {
  uint64_t id;
  std::vector<at::DimVector> sizes;
  std::optional<int64_t> profile;
};

// One stream's way through an engine: an execution context, and what it was last told. Calls go one at a time; the lock is
// held while work is enqueued, never while it runs.
//
// From the default stream the engine runs on a stream of its own, ordered before and after by events: on the default
// stream itself TensorRT would synchronise the device.
class Lane {
 public:
  Lane(Session& session, c10::cuda::CUDAStream stream);
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // Inputs are contiguous, where the engine wants them, and of its dtypes. The device and the stream are the current ones.
  std::vector<at::Tensor> run(const Shapes& shapes, at::TensorList inputs);

  // Orders what the engine does next after all that the caller's stream holds.
  void wait_for_caller();

  // Waits for the work, and frees the context.
  void close();

  // Whether every output's shape follows from these shapes alone.
  bool shapes_decide(const Shapes& shapes, at::TensorList inputs);

 private:
  // What follows from inputs of certain shapes; an output's shape is none where the data decide it.
  struct Layout {
    int32_t profile;
    int64_t scratch;
    std::vector<std::optional<at::DimVector>> outputs;
  };

  const Layout& prepare(const Shapes& shapes, at::TensorList inputs, std::vector<at::Tensor>& held);
  void tell_shapes(const Shapes& shapes);
  void bind_inputs(at::TensorList inputs, std::vector<at::Tensor>& held);
  Layout lay_out(const Shapes& shapes);
  std::vector<at::Tensor> bind_outputs(const Layout& layout);
  c10::DataPtr bind_scratch(int64_t size);
  void set_address(size_t binding, const char* name, const void* address);
  void execute();
  void collect(const Layout& layout, std::vector<at::Tensor>& outputs);

  Session& session_;
  c10::cuda::CUDAStream stream_; // the caller's
  std::optional<c10::cuda::CUDAStream> own_;
  at::cuda::CUDAEvent before_, after_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  uint64_t told_ = 0;
  const Layout* current_ = nullptr;
  std::unordered_map<uint64_t, Layout> layouts_;
  std::vector<const void*> addresses_; // of inputs, then of outputs
  std::vector<std::unique_ptr<OutputAllocator>> allocators_; // an output each, null where none is set
  const void* scratch_ = nullptr;
  int64_t scratch_size_ = -1;
  at::Tensor nothing_; // where empty tensors are said to be: they have no address, and TensorRT wants one
  std::mutex mutex_;
};

} // namespace bridge
