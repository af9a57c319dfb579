#include "lane.h"

#include <ATen/cuda/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>
#include <utility>

#include "error.h"
#include "session.h"
#include "tensorrt.h"
#include "text.h"

namespace bridge {

namespace {

constexpr uintptr_t kAlignment = 256; // bytes; TensorRT asks it of every address
constexpr size_t kMostShapes = 1024;

at::Tensor empty(at::IntArrayRef sizes, c10::ScalarType dtype, at::Device device) {
  if (device.is_cpu()) {
    return at::empty(sizes, at::TensorOptions(dtype));
  }
  return at::Tensor(at::detail::empty_cuda(sizes, dtype, device, std::nullopt));
}

std::string failure_hint() {
  return "TensorRT's own message is in the log, logger bridge.tensorrt";
}

} // namespace

// Gives TensorRT memory of PyTorch's for an output whose size only its data decide.
class OutputAllocator final : public nvinfer1::IOutputAllocator {
 public:
  OutputAllocator(Lane& lane, at::Device device) : lane_(lane), device_(device) {}

  // Lets go of the memory of the call before: it is the caller's.
  void begin() {
    memory_ = at::Tensor();
    sizes_.clear();
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
        lane_.wait_for_caller(); // another thread's work on its stream may still use that memory
      }
      return memory_.mutable_data_ptr();
    } catch (const std::exception&) {
      return nullptr; // no memory: TensorRT says so, and the call fails
    }
  }

  Lane& lane_;
  at::Device device_;
  at::Tensor memory_;
  at::DimVector sizes_;
};

Lane::Lane(Session& session, c10::cuda::CUDAStream stream)
    : session_(session),
      stream_(stream),
      addresses_(session.inputs.size() + session.outputs.size(), nullptr),
      allocators_(session.outputs.size()),
      nothing_(empty({static_cast<int64_t>(kAlignment)}, at::kByte, session.device)) {
  if (stream.stream() == nullptr) {
    own_ = c10::cuda::getStreamFromPool(/*isHighPriority=*/false, session.device.index());
  }
  const ErrorsHeard errors;
  context_.reset(
      session.engine().createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
  if (context_ == nullptr) {
    fail("TensorRT could not make an execution context", errors.text(), "there may be too little memory on the GPU");
  }
}

Lane::~Lane() = default;

void Lane::close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  (void)cudaStreamSynchronize((own_ ? *own_ : stream_).stream());
  context_.reset();
  allocators_.clear();
  nothing_ = at::Tensor();
}

std::vector<at::Tensor> Lane::run(const Shapes& shapes, at::TensorList inputs) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (context_ == nullptr) {
    fail("this engine was closed");
  }
  std::vector<at::Tensor> held;
  const Layout& layout = prepare(shapes, inputs, held);
  std::vector<at::Tensor> outputs = bind_outputs(layout);
  const c10::DataPtr scratch = bind_scratch(layout.scratch);
  execute();
  collect(layout, outputs);
  return outputs;
}

bool Lane::shapes_decide(const Shapes& shapes, at::TensorList inputs) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<at::Tensor> held;
  for (const auto& output : prepare(shapes, inputs, held).outputs) {
    if (!output.has_value()) {
      return false;
    }
  }
  return !session_.host_inputs;
}

// Tells the context the inputs, as far as it does not know them.
const Lane::Layout& Lane::prepare(const Shapes& shapes, at::TensorList inputs, std::vector<at::Tensor>& held) {
  const bool known = told_ == shapes.id;
  if (!known) {
    tell_shapes(shapes);
  }
  bind_inputs(inputs, held);
  if (known && current_ != nullptr && !session_.host_inputs) {
    return *current_;
  }
  current_ = nullptr;
  if (layouts_.size() >= kMostShapes) {
    layouts_.clear();
  }
  auto found = layouts_.find(shapes.id);
  if (found == layouts_.end() || session_.host_inputs) {
    found = layouts_.insert_or_assign(shapes.id, lay_out(shapes)).first;
  }
  current_ = &found->second;
  return *current_;
}

void Lane::tell_shapes(const Shapes& shapes) {
  const auto known = layouts_.find(shapes.id);
  const int32_t profile = known != layouts_.end() ? known->second.profile : session_.choose_profile(shapes);
  told_ = 0;
  if (profile != context_->getOptimizationProfile()) {
    if (!context_->setOptimizationProfileAsync(profile, (own_ ? *own_ : stream_).stream())) {
      fail("TensorRT failed to change to profile " + std::to_string(profile), {}, failure_hint());
    }
    std::fill(addresses_.begin(), addresses_.end(), nullptr); // another profile may have bindings of its own
  }
  for (size_t input = 0; input < session_.inputs.size(); ++input) {
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<int32_t>(shapes.sizes[input].size());
    std::copy(shapes.sizes[input].begin(), shapes.sizes[input].end(), dims.d);
    if (!context_->setInputShape(session_.inputs[input].name.c_str(), dims)) {
      const std::string text = join(shapes.sizes[input], ", ", [](int64_t size) { return std::to_string(size); });
      fail("TensorRT does not take shape (" + text + ") for input " + quoted(session_.inputs[input].name));
    }
  }
  if (known != layouts_.end() && !session_.host_inputs) {
    context_->updateDeviceMemorySizeForShapes();
  }
  scratch_size_ = -1; // where in the scratch memory things are depends on the shapes
  told_ = shapes.id;
}

void Lane::bind_inputs(at::TensorList inputs, std::vector<at::Tensor>& held) {
  for (size_t input = 0; input < inputs.size(); ++input) {
    const void* address = inputs[input].const_data_ptr();
    if (reinterpret_cast<uintptr_t>(address) % kAlignment != 0 && inputs[input].is_cuda()) {
      held.push_back(inputs[input].clone());
      address = held.back().const_data_ptr();
    }
    set_address(input, session_.inputs[input].name.c_str(), address);
  }
}

Lane::Layout Lane::lay_out(const Shapes& shapes) {
  const ErrorsHeard errors;
  if (context_->inferShapes(0, nullptr) < 0) {
    told_ = 0;
    fail("TensorRT could not work out the shapes of an engine's outputs", errors.text());
  }
  Layout layout{context_->getOptimizationProfile(), 0, {}};
  for (size_t output = 0; output < session_.outputs.size(); ++output) {
    const char* name = session_.outputs[output].name.c_str();
    const nvinfer1::Dims dims = context_->getTensorShape(name);
    const bool known = dims.nbDims >= 0 && std::find(dims.d, dims.d + dims.nbDims, -1) == dims.d + dims.nbDims;
    layout.outputs.push_back(known ? std::make_optional<at::DimVector>(dims.d, dims.d + dims.nbDims) : std::nullopt);
  }
  layout.scratch = static_cast<int64_t>(context_->updateDeviceMemorySizeForShapes());
  if (layout.scratch == 0) { // none, or an error
    layout.scratch = session_.engine().getDeviceMemorySizeForProfileV2(layout.profile);
  }
  return layout;
}

// The outputs of known shape; the others are undefined until `collect`.
std::vector<at::Tensor> Lane::bind_outputs(const Layout& layout) {
  std::vector<at::Tensor> outputs(layout.outputs.size());
  for (size_t output = 0; output < outputs.size(); ++output) {
    const Binding& binding = session_.outputs[output];
    auto& allocator = allocators_[output];
    if (!layout.outputs[output].has_value()) {
      if (allocator == nullptr) {
        allocator = std::make_unique<OutputAllocator>(*this, session_.output_devices[output]);
        context_->setOutputAllocator(binding.name.c_str(), allocator.get());
      }
      allocator->begin();
      continue;
    }
    if (allocator != nullptr) {
      context_->setOutputAllocator(binding.name.c_str(), nullptr);
      allocator.reset();
    }
    outputs[output] = empty(*layout.outputs[output], binding.dtype, session_.output_devices[output]);
    set_address(session_.inputs.size() + output, binding.name.c_str(), outputs[output].const_data_ptr());
  }
  return outputs;
}

// Memory for what lies between inputs and outputs, of the caller's stream: free again for its next work.
c10::DataPtr Lane::bind_scratch(int64_t size) {
  c10::DataPtr memory;
  if (size > 0) {
    memory = c10::cuda::CUDACachingAllocator::get()->allocate(static_cast<size_t>(size));
  }
  if (memory.get() != scratch_ || size != scratch_size_) {
    context_->setDeviceMemoryV2(memory.get(), size);
    scratch_ = memory.get();
    scratch_size_ = size;
  }
  return memory;
}

void Lane::set_address(size_t binding, const char* name, const void* address) {
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

void Lane::wait_for_caller() {
  if (own_) {
    before_.record(stream_);
    before_.block(*own_);
  }
}

void Lane::execute() {
  const ErrorsHeard errors;
  const c10::cuda::CUDAStream& stream = own_ ? *own_ : stream_;
  wait_for_caller();
  bool enqueued = false;
  {
    const StreamOrdered ordered(stream.stream());
    enqueued = context_->enqueueV3(stream.stream());
  }
  if (own_) {
    after_.record(*own_);
    after_.block(stream_);
  }
  if (!enqueued) {
    told_ = 0;
    fail("TensorRT failed to run an engine", errors.text(), failure_hint());
  }
}

void Lane::collect(const Layout& layout, std::vector<at::Tensor>& outputs) {
  for (size_t output = 0; output < outputs.size(); ++output) {
    if (!layout.outputs[output].has_value()) {
      outputs[output] = allocators_[output]->result(session_.outputs[output].dtype);
    }
  }
}

} // namespace bridge
