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
  std::optional<bool> cuda_graphs; // none: where a call repeats
};

// What follows from inputs of certain shapes; an output's shape is none where the data decide it.
struct Layout {
  int32_t profile;
  int64_t scratch; // bytes
  std::vector<std::optional<at::DimVector>> outputs;

  bool is_known() const; // whether the shapes of all outputs are
};

// What a call writes to: PyTorch's memory, of the current stream.
struct Memory {
  std::vector<at::Tensor> outputs; // undefined where the data decide the shape
  c10::DataPtr scratch; // null where the context has its own
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
  // Inputs are of the engine's formats, where it wants them, and of its dtypes.
  //   order: called once everything is allocated, before the run is enqueued.
  //   memory: what was allocated before for a call of this kind; null: it is allocated here.
  std::vector<at::Tensor> run(
      const CallKind& kind,
      at::TensorList inputs,
      cudaStream_t stream,
      const std::function<void()>& order,
      Memory* memory = nullptr);

  // Sets shapes and addresses; what follows from them. It lasts until the next call.
  const Layout& layout(const CallKind& kind, at::TensorList inputs, cudaStream_t stream);

  // Enqueues what the last run enqueued, to the same addresses.
  void repeat(cudaStream_t stream);

  // Whether its last run was one of these shapes.
  bool has_run(const CallKind& kind) const;

 private:
  bool is_told(const CallKind& kind) const;
  const Layout& tell(const CallKind& kind, at::TensorList inputs, cudaStream_t stream, std::vector<at::Tensor>& held);
  void tell_shapes(const CallKind& kind, cudaStream_t stream);
  void bind_inputs(at::TensorList inputs, std::vector<at::Tensor>& held);
  Layout lay_out();
  void bind_outputs(const Layout& layout, at::TensorList outputs, const std::function<void()>& order);
  void bind_scratch(int64_t size, void* memory);
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

// Memory for a call; `Layout::scratch` bytes of it for activations where that is too much for a context to keep.
Memory allocate(const Session& session, const Layout& layout);

// Whether TensorRT takes the address of this input as it is.
bool is_aligned(const at::Tensor& input);

} // namespace bridge
