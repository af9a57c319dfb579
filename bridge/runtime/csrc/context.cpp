#include "context.h"

#include <ATen/cuda/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDACachingAllocator.h>

#include <algorithm>

#include "error.h"
#include "session.h"
#include "tensorrt.h"
#include "text.h"

namespace bridge {

namespace {

constexpr uintptr_t kAlignment = 256; // bytes; TensorRT asks it of every address
constexpr size_t kMostShapes = 1024;
constexpr int64_t kSmall = 1 << 20; // bytes of scratch memory that a context keeps

// Memory on the current device, or the host's.
at::Tensor empty(
    at::IntArrayRef sizes,
    c10::ScalarType dtype,
    at::Device device,
    std::optional<at::MemoryFormat> format = std::nullopt) {
  if (device.is_cpu()) {
    return at::empty(sizes, at::TensorOptions(dtype));
  }
  // what at::detail::empty_cuda ends in, less the guard of the device and the initialisation of CUDA
  constexpr c10::DispatchKeySet keys(c10::DispatchKey::CUDA);
  return at::Tensor(at::detail::empty_generic(sizes, c10::cuda::CUDACachingAllocator::get(), keys, dtype, format));
}

std::string failure_hint() {
  return "TensorRT's own message is in the log, logger bridge.tensorrt";
}

} // namespace

// Gives TensorRT memory of PyTorch's for an output whose size only its data decide.
class OutputAllocator final : public nvinfer1::IOutputAllocator {
 public:
  explicit OutputAllocator(at::Device device) : device_(device) {}

  // Lets go of the memory of the call before: it is the caller's. `order` is called after each allocation: another thread's
  // work on the caller's stream may still use that memory.
  void begin(const std::function<void()>& order) {
    memory_ = at::Tensor();
    sizes_.clear();
    order_ = order;
  }

  void* reallocateOutput(const char*, void*, uint64_t size, uint64_t) noexcept override {
    return reallocate(size);
  }

  void* reallocateOutputAsync(const char*, void*, uint64_t size, uint64_t, cudaStream_t) noexcept override {
    return reallocate(size);
  }

  void notifyShape(const char*, const nvinfer1::Dims& dims) noexcept override {
    sizes_.assign(dims.d, dims.d + dims.nbDims);
  }

  // The output of the call that has just been enqueued.
  at::Tensor result(c10::ScalarType dtype) const {
    int64_t bytes = static_cast<int64_t>(c10::elementSize(dtype));
    for (const int64_t size : sizes_) {
      bytes *= size;
    }
    if (!memory_.defined()) {
      return empty(sizes_, dtype, device_);
    }
    return memory_.narrow(0, 0, bytes).view(dtype).view(sizes_);
  }

 private:
  void* reallocate(uint64_t size) noexcept {
    try {
      if (!memory_.defined() || static_cast<uint64_t>(memory_.numel()) < size) {
        memory_ = empty({static_cast<int64_t>(size == 0 ? 1 : size)}, at::kByte, device_);
        order_();
      }
      return memory_.mutable_data_ptr();
    } catch (const std::exception&) {
      return nullptr; // no memory: TensorRT says so, and the call fails
    }
  }

  std::function<void()> order_;
  at::Device device_;
  at::Tensor memory_;
  at::DimVector sizes_;
};

Context::Context(Session& session)
    : session_(session),
      addresses_(session.inputs.size() + session.outputs.size(), nullptr),
      allocators_(session.outputs.size()) {
  lasting([&] { nothing_ = empty({static_cast<int64_t>(kAlignment)}, at::kByte, session.device); });
  ErrorsHeard errors;
  context_.reset(
      session.engine().createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
  if (context_ == nullptr) {
    fail("TensorRT gave no execution context", errors.text(), "is the GPU's memory full?");
  }
}

Context::~Context() = default;

bool Layout::is_known() const {
  return std::all_of(outputs.begin(), outputs.end(), [](const auto& shape) { return shape.has_value(); });
}

Memory allocate(const Session& session, const Layout& layout) {
  Memory memory;
  memory.outputs.reserve(layout.outputs.size());
  for (size_t output = 0; output < layout.outputs.size(); ++output) {
    const auto& sizes = layout.outputs[output];
    const at::Device place = session.output_devices[output];
    memory.outputs.push_back(
        sizes.has_value() ? empty(*sizes, session.outputs[output].dtype, place, session.output_formats[output])
                          : at::Tensor());
  }
  if (layout.scratch > kSmall) {
    memory.scratch = c10::cuda::CUDACachingAllocator::get()->allocate(static_cast<size_t>(layout.scratch));
  }
  return memory;
}

bool is_aligned(const at::Tensor& input) {
  return reinterpret_cast<uintptr_t>(input.const_data_ptr()) % kAlignment == 0;
}

std::vector<at::Tensor> Context::run(
    const CallKind& kind,
    at::TensorList inputs,
    cudaStream_t stream,
    const std::function<void()>& order,
    Memory* memory) {
  std::vector<at::Tensor> held;
  const Layout& layout = tell(kind, inputs, stream, held);
  Memory own;
  if (memory == nullptr) {
    own = allocate(session_, layout);
    memory = &own;
  }
  bind_outputs(layout, memory->outputs, order);
  bind_scratch(layout.scratch, memory->scratch.get());
  order();
  execute(stream);
  collect(layout, memory->outputs);
  return std::move(memory->outputs);
}

const Layout& Context::layout(const CallKind& kind, at::TensorList inputs, cudaStream_t stream) {
  std::vector<at::Tensor> held;
  return tell(kind, inputs, stream, held);
}

void Context::repeat(cudaStream_t stream) {
  execute(stream);
}

bool Context::is_told(const CallKind& kind) const {
  return told_ == kind.id || (told_ != 0 && told_sizes_ == kind.sizes && told_profile_ == kind.profile);
}

bool Context::has_run(const CallKind& kind) const {
  return ran_ && is_told(kind);
}

// Tells the context the inputs, as far as it does not know them.
const Layout& Context::tell(
    const CallKind& kind,
    at::TensorList inputs,
    cudaStream_t stream,
    std::vector<at::Tensor>& held) {
  const bool known = is_told(kind);
  told_ = known ? kind.id : told_;
  if (!known) {
    tell_shapes(kind, stream);
  }
  bind_inputs(inputs, held);
  if (known && current_ != nullptr && !session_.host_inputs) {
    return *current_;
  }
  current_ = nullptr;
  if (layouts_.size() >= kMostShapes) {
    layouts_.clear();
  }
  auto found = layouts_.find(kind.id);
  if (found == layouts_.end() || session_.host_inputs) {
    found = layouts_.insert_or_assign(kind.id, lay_out()).first;
  }
  current_ = &found->second;
  return *current_;
}

void Context::tell_shapes(const CallKind& kind, cudaStream_t stream) {
  const auto known = layouts_.find(kind.id);
  const int32_t profile = known != layouts_.end() ? known->second.profile : session_.choose_profile(kind);
  told_ = 0;
  if (profile != context_->getOptimizationProfile()) {
    if (!context_->setOptimizationProfileAsync(profile, stream)) {
      fail("TensorRT failed to change to profile " + std::to_string(profile), {}, failure_hint());
    }
    std::fill(addresses_.begin(), addresses_.end(), nullptr); // another profile may have bindings of its own
  }
  for (size_t input = 0; input < session_.inputs.size(); ++input) {
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<int32_t>(kind.sizes[input].size());
    std::copy(kind.sizes[input].begin(), kind.sizes[input].end(), dims.d);
    if (!context_->setInputShape(session_.inputs[input].name.c_str(), dims)) {
      const std::string text = join(kind.sizes[input], ", ", [](int64_t size) { return std::to_string(size); });
      fail("TensorRT does not take shape (" + text + ") for input " + quoted(session_.inputs[input].name));
    }
  }
  if (known != layouts_.end() && !session_.host_inputs) {
    context_->updateDeviceMemorySizeForShapes();
  }
  scratch_size_ = -1; // where in the scratch memory things are depends on the shapes
  told_ = kind.id;
  told_sizes_ = kind.sizes;
  told_profile_ = kind.profile;
  ran_ = false;
}

void Context::bind_inputs(at::TensorList inputs, std::vector<at::Tensor>& held) {
  for (size_t input = 0; input < inputs.size(); ++input) {
    const void* address = inputs[input].const_data_ptr();
    if (!is_aligned(inputs[input]) && inputs[input].is_cuda()) {
      held.push_back(inputs[input].clone());
      address = held.back().const_data_ptr();
    }
    set_address(input, session_.inputs[input].name.c_str(), address);
  }
}

Layout Context::lay_out() {
  ErrorsHeard errors;
  if (context_->inferShapes(0, nullptr) < 0) {
    told_ = 0;
    fail("TensorRT could not work out the shapes of an engine's outputs", errors.text());
  }
  Layout layout{context_->getOptimizationProfile(), 0, {}};
  for (size_t output = 0; output < session_.outputs.size(); ++output) {
    const char* name = session_.outputs[output].name.c_str();
    const nvinfer1::Dims dims = context_->getTensorShape(name);
    const bool known = dims.nbDims >= 0 && std::find(dims.d, dims.d + dims.nbDims, -1) == dims.d + dims.nbDims;
    if (!known && session_.output_formats[output] != at::MemoryFormat::Contiguous) {
      fail("the data decide the shape of an output that has its channels last");
    }
    layout.outputs.push_back(known ? std::make_optional<at::DimVector>(dims.d, dims.d + dims.nbDims) : std::nullopt);
  }
  layout.scratch = static_cast<int64_t>(context_->updateDeviceMemorySizeForShapes());
  if (layout.scratch == 0) { // none, or an error
    layout.scratch = session_.engine().getDeviceMemorySizeForProfileV2(layout.profile);
  }
  return layout;
}

// Outputs that are undefined are allocated while the run is enqueued, and known after `collect`.
void Context::bind_outputs(const Layout& layout, at::TensorList outputs, const std::function<void()>& order) {
  for (size_t output = 0; output < outputs.size(); ++output) {
    const Binding& binding = session_.outputs[output];
    auto& allocator = allocators_[output];
    if (!layout.outputs[output].has_value()) {
      if (allocator == nullptr) {
        allocator = std::make_unique<OutputAllocator>(session_.output_devices[output]);
        context_->setOutputAllocator(binding.name.c_str(), allocator.get());
      }
      allocator->begin(order);
      continue;
    }
    if (allocator != nullptr) {
      context_->setOutputAllocator(binding.name.c_str(), nullptr);
      allocator.reset();
    }
    set_address(session_.inputs.size() + output, binding.name.c_str(), outputs[output].const_data_ptr());
  }
}

// Memory for what lies between inputs and outputs. What is small stays with the context, which saves the time of allocating;
// the rest is free again for the next work of the current stream.
void Context::bind_scratch(int64_t size, void* memory) {
  if (memory == nullptr && size > 0) {
    if (!small_.defined() || small_.numel() < size) {
      lasting([&] { small_ = empty({size}, at::kByte, session_.device); });
    }
    memory = small_.mutable_data_ptr();
  }
  if (memory != scratch_ || size != scratch_size_) {
    context_->setDeviceMemoryV2(memory, size);
    scratch_ = memory;
    scratch_size_ = size;
  }
}

void Context::set_address(size_t binding, const char* name, const void* address) {
  if (address == nullptr) {
    address = nothing_.const_data_ptr();
  }
  if (addresses_[binding] != address) {
    addresses_[binding] = nullptr;
    if (!context_->setTensorAddress(name, const_cast<void*>(address))) {
      fail("TensorRT does not take the address of " + quoted(name), {}, failure_hint());
    }
    addresses_[binding] = address;
  }
}

void Context::execute(cudaStream_t stream) {
  ErrorsHeard errors;
  StreamOrdered ordered(stream);
  if (!context_->enqueueV3(stream)) {
    told_ = 0;
    fail("TensorRT failed to run an engine", errors.text(), failure_hint());
  }
  ran_ = true;
}

void Context::collect(const Layout& layout, std::vector<at::Tensor>& outputs) {
  for (size_t output = 0; output < outputs.size(); ++output) {
    if (!layout.outputs[output].has_value()) {
      outputs[output] = allocators_[output]->result(session_.outputs[output].dtype);
    }
  }
}

} // namespace bridge
