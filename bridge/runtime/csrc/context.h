#pragma once

#include <ATen/core/Tensor.h>
#include <NvInferRuntime.h>
#include <c10/cuda/CUDAStream.h>

#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

namespace bridge {

class OutputAllocator;
class Session;

// The shapes of a call, in the engine's order, and how it runs. Equal ids mean that all of it is equal.
struct CallKind {
  uint64_t id;
  std::vector<at::DimVector> sizes;
  std::optional<int64_t> profile;
  bool cuda_graphs;
};

// An execution context without memory of its own for activations, and what it was last told: a call repeats nothing that the
// context knows. Memory for outputs and activations is PyTorch's, of the current stream.
class Context {
 public:
  explicit Context(Session& session);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // Enqueues a run on `stream`. The outputs are new; those whose shapes the data decide come from memory that is allocated
  // while the run is enqueued, and `after_allocation` is called for each.
  // Inputs are contiguous, where the engine wants them, and of its dtypes.
  //   order: called once everything is allocated, before the run is enqueued.
  std::vector<at::Tensor> run(
      const CallKind& kind,
      at::TensorList inputs,
      cudaStream_t stream,
      const std::function<void()>& order);

  // Sets shapes and addresses; whether the shapes of all outputs follow from the shapes of the inputs.
  bool shapes_decide(const CallKind& kind, at::TensorList inputs, cudaStream_t stream);

  // Whether its last run was one of these shapes.
  bool has_run(const CallKind& kind) const;

 private:
  // What follows from inputs of certain shapes; an output's shape is none where the data decide it.
  struct Layout {
    int32_t profile;
    int64_t scratch; // bytes
    std::vector<std::optional<at::DimVector>> outputs;
  };

  bool is_told(const CallKind& kind) const;
  const Layout& tell(const CallKind& kind, at::TensorList inputs, cudaStream_t stream, std::vector<at::Tensor>& held);
  void tell_shapes(const CallKind& kind, cudaStream_t stream);
  void bind_inputs(at::TensorList inputs, std::vector<at::Tensor>& held);
  Layout lay_out();
  std::vector<at::Tensor> bind_outputs(const Layout& layout, const std::function<void()>& order);
  c10::DataPtr bind_scratch(int64_t size);
  void set_address(size_t binding, const char* name, const void* address);
  void execute(cudaStream_t stream);
  void collect(const Layout& layout, std::vector<at::Tensor>& outputs);

  Session& session_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  uint64_t told_ = 0; // the id of the call that the context is set for; 0: unknown
  std::vector<at::DimVector> told_sizes_;
  std::optional<int64_t> told_profile_;
  bool ran_ = false; // since it was told
  const Layout* current_ = nullptr; // what follows from what was told
  std::unordered_map<uint64_t, Layout> layouts_;
  std::vector<const void*> addresses_; // of inputs, then of outputs
  std::vector<std::unique_ptr<OutputAllocator>> allocators_; // an output each, null where none is set
  const void* scratch_ = nullptr;
  int64_t scratch_size_ = -1; // -1: not set for these shapes
  at::Tensor small_; // scratch memory that is kept
  at::Tensor nothing_; // where empty tensors are said to be: they have no address, and TensorRT wants one
};

} // namespace bridge
