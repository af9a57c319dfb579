#include "session.h"

#include <ATen/cuda/CUDAContext.h>
#include <ATen/record_function.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <utility>

#include "error.h"
#include "tensorrt.h"
#include "text.h"

namespace bridge {

namespace {

constexpr size_t kDigits = 12; // of a plan's digest, in the name of its range

// Never destroyed: static objects that use it may outlive those that are.
struct Registry {
  std::mutex mutex;
  std::map<std::pair<std::string, c10::DeviceIndex>, std::weak_ptr<Session>> sessions;
};

Registry& registry() {
  static auto* const instance = new Registry;
  return *instance;
}

std::vector<std::shared_ptr<Session>> all_sessions() {
  std::vector<std::shared_ptr<Session>> result;
  const std::lock_guard<std::mutex> lock(registry().mutex);
  for (const auto& [key, weak] : registry().sessions) {
    if (auto session = weak.lock()) {
      result.push_back(std::move(session));
    }
  }
  return result;
}

// Before CUDA shuts down: an engine that is freed after it ends the process with an error.
void close_all() {
  auto& alive = *new std::vector<std::shared_ptr<Session>>(all_sessions()); // never freed: see below
  if (alive.empty() || cudaDeviceSynchronize() != cudaSuccess) {
    return; // CUDA is gone already, and its memory with it: the engines are left as they are
  }
  for (const auto& session : alive) {
    session->close();
  }
}

void close_at_exit() {
  static const int registered = std::atexit(close_all);
  (void)registered;
}

void check_gpu(const Plan& plan, at::Device device) {
  if (!device.is_cuda() || c10::cuda::device_count() == 0) {
    fail(
        "a TensorRT engine runs on an NVIDIA GPU, not on " + device.str(),
        c10::cuda::device_count() == 0 ? "there is no GPU" : "",
        "move the inputs to the GPU, or compile with backend=\"onnxruntime\"");
  }
  const cudaDeviceProp& here = *at::cuda::getDeviceProperties(device.index());
  const std::string capability = std::to_string(here.major) + "." + std::to_string(here.minor);
  if (!plan.capability.empty() && plan.capability != capability && !plan.hardware_compatible) {
    fail(
        "this engine was built for " + plan.device_name + " (compute capability " + plan.capability + "); " +
            device.str() + " is a " + here.name + " (" + capability + ")",
        {},
        "compile on this machine, or with hardware_compatible=True");
  }
}

at::DimVector sizes_of(const nvinfer1::Dims& dims) {
  return dims.nbDims < 0 ? at::DimVector() : at::DimVector(dims.d, dims.d + dims.nbDims);
}

std::string tuple_text(at::IntArrayRef sizes) {
  const std::string inside = join(sizes, ", ", [](int64_t size) { return std::to_string(size); });
  return "(" + inside + (sizes.size() == 1 ? ",)" : ")");
}

// TensorRT's name of a format, and to what it pads the channels where they are last; 0 where they are not.
std::pair<std::string, int64_t> described(nvinfer1::TensorFormat format) {
  switch (format) {
    case nvinfer1::TensorFormat::kLINEAR:
      return {"LINEAR", 0};
    case nvinfer1::TensorFormat::kHWC:
      return {"HWC", 1};
    case nvinfer1::TensorFormat::kHWC8:
      return {"HWC8", 8};
    case nvinfer1::TensorFormat::kHWC16:
      return {"HWC16", 16};
    default:
      return {"number " + std::to_string(static_cast<int32_t>(format)), 0};
  }
}

// How a tensor of the engine lies in memory, in PyTorch's terms. Throws where PyTorch has no word for it.
at::MemoryFormat memory_format(const nvinfer1::ICudaEngine& engine, const std::string& name, const std::string& kind) {
  const nvinfer1::TensorFormat format = engine.getTensorFormat(name.c_str());
  if (format == nvinfer1::TensorFormat::kLINEAR) {
    return at::MemoryFormat::Contiguous;
  }
  const auto [said, padding] = described(format);
  const at::DimVector shape = sizes_of(engine.getTensorShape(name.c_str()));
  if (padding > 0 && shape.size() == 4 && shape[1] > 0 && shape[1] % padding == 0) {
    return at::MemoryFormat::ChannelsLast;
  }
  fail(
      kind + " " + quoted(name) + " of this engine, of shape " + tuple_text(shape) + ", is in TensorRT's format " + said +
          ", which no tensor of PyTorch has",
      {},
      "build it with linear inputs and outputs, or with channels last and no padding");
}

} // namespace

void Session::close_everything() {
  close_all();
}

size_t Session::count() {
  return all_sessions().size();
}

std::shared_ptr<Session> Session::load(const Plan& plan, at::Device device) {
  check_gpu(plan, device);
  // one at a time: an engine that several threads ask for at once is loaded once
  static auto* const loading = new std::mutex;
  const std::lock_guard<std::mutex> one(*loading);
  const auto key = std::make_pair(plan.digest, device.index());
  {
    const std::lock_guard<std::mutex> lock(registry().mutex);
    if (auto session = registry().sessions[key].lock()) {
      return session;
    }
  }
  const c10::cuda::CUDAGuard guard(device);
  auto session = std::make_shared<Session>(plan, device);
  close_at_exit();
  const std::lock_guard<std::mutex> lock(registry().mutex);
  auto& sessions = registry().sessions;
  for (auto item = sessions.begin(); item != sessions.end();) {
    item = item->second.expired() ? sessions.erase(item) : std::next(item);
  }
  sessions[key] = session;
  return session;
}

Session::Session(const Plan& plan, at::Device device)
    : inputs(plan.inputs),
      outputs(plan.outputs),
      device(device),
      range_("engine " + plan.digest.substr(0, kDigits)),
      runtime_(make_runtime()) {
  if (plan.version_compatible) {
    runtime_->setEngineHostCodeAllowed(true);
  }
  const std::string_view bytes = plan.section("engine");
  ErrorsHeard errors;
  engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
  if (engine_ == nullptr) {
    fail(
        "TensorRT " + tensorrt_version() + " could not load this engine, built with " + plan.version,
        errors.text(),
        "compile again with the version that is installed");
  }
  const auto place = [&](const Binding& binding) {
    const bool on_host = engine_->getTensorLocation(binding.name.c_str()) == nvinfer1::TensorLocation::kHOST;
    return on_host ? at::Device(at::kCPU) : device;
  };
  for (const Binding& binding : inputs) {
    input_devices.push_back(place(binding));
    host_inputs |= input_devices.back().is_cpu();
  }
  for (const Binding& binding : outputs) {
    output_devices.push_back(place(binding));
  }
  for (const Binding& binding : inputs) {
    input_formats.push_back(memory_format(*engine_, binding.name, "input"));
  }
  for (const Binding& binding : outputs) {
    output_formats.push_back(memory_format(*engine_, binding.name, "output"));
  }
  if (host_inputs) {
    why_not_repeated = "the values of an input decide shapes";
  } else if (std::any_of(output_devices.begin(), output_devices.end(), [](at::Device place) { return place.is_cpu(); })) {
    why_not_repeated = "an output is on the host";
  }
  for (int32_t index = 0; index < engine_->getNbOptimizationProfiles(); ++index) {
    auto& limits = profiles_.emplace_back();
    for (const Binding& binding : inputs) {
      const auto shape = [&](nvinfer1::OptProfileSelector which) {
        return sizes_of(engine_->getProfileShape(binding.name.c_str(), index, which));
      };
      using nvinfer1::OptProfileSelector;
      limits.push_back({shape(OptProfileSelector::kMIN), shape(OptProfileSelector::kOPT), shape(OptProfileSelector::kMAX)});
    }
  }
}

Session::~Session() {
  try {
    close();
  } catch (const std::exception& error) {
    warn(std::string("an engine could not be freed: ") + error.what());
  }
}

void Session::close() {
  std::vector<Lane*> lanes;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (std::exchange(closed_, true)) {
      return;
    }
    for (const auto& [stream, lane] : lanes_) {
      lanes.push_back(lane.get());
    }
  }
  const c10::cuda::CUDAGuard guard(device);
  for (Lane* lane : lanes) {
    lane->close();
  }
  engine_.reset();
  runtime_.reset();
}

std::shared_ptr<Context> Session::give_away(const CallKind& kind, const Lane& asking) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [stream, lane] : lanes_) {
    if (lane.get() != &asking) {
      if (auto context = lane->give_away(kind)) {
        return context;
      }
    }
  }
  return nullptr;
}

std::vector<at::Tensor> Session::run(const CallKind& kind, at::TensorList tensors, Place& place) {
  RECORD_FUNCTION(range_, c10::ArrayRef<const c10::IValue>()); // a range for torch.profiler and NVTX, when one of them listens
  if (c10::cuda::current_device() == device.index()) {
    return lane(place).run(kind, tensors);
  }
  const c10::cuda::CUDAGuard current(device);
  return lane(place).run(kind, tensors);
}

// The lane of the current stream. Lanes stay for as long as the session.
Lane& Session::lane(Place& place) {
  const auto stream = c10::cuda::getCurrentCUDAStream(device.index());
  if (place.lane != nullptr && place.stream == stream.stream()) {
    return *place.lane;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) {
    fail("this engine was closed");
  }
  auto& lane = lanes_[stream.stream()];
  if (lane == nullptr) {
    lane = std::make_unique<Lane>(*this, stream);
  }
  place = {stream.stream(), lane.get()};
  return *lane;
}

int32_t Session::choose_profile(const CallKind& kind) const {
  const auto fits = [&](const Limits& limits, const at::DimVector& sizes) {
    if (limits.min.size() != sizes.size()) {
      return false;
    }
    for (size_t axis = 0; axis < sizes.size(); ++axis) {
      if (sizes[axis] < limits.min[axis] || sizes[axis] > limits.max[axis]) {
        return false;
      }
    }
    return true;
  };
  for (size_t index = 0; index < profiles_.size(); ++index) {
    bool all = !kind.profile.has_value() || *kind.profile == static_cast<int64_t>(index);
    for (size_t input = 0; all && input < inputs.size(); ++input) {
      all = fits(profiles_[index][input], kind.sizes[input]);
    }
    if (all) {
      return static_cast<int32_t>(index);
    }
  }
  std::string got;
  for (size_t input = 0; input < inputs.size(); ++input) {
    got += (input == 0 ? "" : ", ") + inputs[input].name + "=" + tuple_text(kind.sizes[input]);
  }
  const std::string which = kind.profile.has_value()
      ? "profile " + std::to_string(*kind.profile) + " does not exist or does not fit: no profile"
      : "no profile";
  fail(which + " of this engine fits " + got, "its profiles (min, opt, max): " + profiles_text());
}

std::string Session::profiles_text() const {
  return "[" + join(profiles_, ", ", [&](const std::vector<Limits>& profile) {
    std::string inside;
    for (size_t input = 0; input < inputs.size(); ++input) {
      const Limits& limits = profile[input];
      inside += (input == 0 ? "" : ", ") + quoted(inputs[input].name) + ": (" + tuple_text(limits.min) + ", " +
          tuple_text(limits.opt) + ", " + tuple_text(limits.max) + ")";
    }
    return "{" + inside + "}";
  }) + "]";
}

} // namespace bridge
