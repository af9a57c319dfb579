// `bridge::execute_engine` in C++: the schema that bridge/runtime/op.py describes, for TensorRT's engines.
//
// What a call needs (the loaded engine, the checks that its shapes have passed, the casts) hangs on the plan's tensor and goes
// with it. A call with shapes seen before is a look-up in a table; one like the call before it in its thread not even that.

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/stack.h>
#include <ATen/ops/_to_copy.h>
#include <c10/core/TensorImpl.h>
#include <c10/cuda/CUDAFunctions.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <numeric>
#include <unordered_map>

#include "cuda_graphs.h"
#include "error.h"
#include "plan.h"
#include "session.h"
#include "signature.h"
#include "tensorrt.h"
#include "text.h"

namespace bridge {

namespace {

constexpr size_t kMostRoutes = 1024;
constexpr size_t kMostSignatures = 16;
constexpr size_t kRecent = 32; // plans whose last call a thread remembers
constexpr const char* kSchema = "execute_engine(Tensor[] inputs, Tensor plan, str signature) -> Tensor[]";
constexpr const char* kPython = "bridge::execute_engine_in_python"; // registered by the Python package

using Tensors = std::vector<at::Tensor>;
using Inputs = c10::SmallVector<at::Tensor, 8>;
using Text = c10::intrusive_ptr<c10::ivalue::ConstantString>;

// Dtype, device, rank and sizes of every input.
using Key = c10::SmallVector<int64_t, 24>;

struct KeyHash {
  size_t operator()(const Key& key) const {
    uint64_t hash = 14695981039346656037ull; // FNV-1a
    for (const int64_t item : key) {
      hash = (hash ^ static_cast<uint64_t>(item)) * 1099511628211ull;
    }
    return hash;
  }
};

Key key_of(at::TensorList inputs) {
  Key key;
  for (const at::Tensor& tensor : inputs) {
    const at::IntArrayRef sizes = tensor.sizes();
    key.push_back((static_cast<int64_t>(tensor.scalar_type()) << 16) | static_cast<uint16_t>(tensor.get_device()));
    key.push_back(static_cast<int64_t>(sizes.size()));
    key.append(sizes.begin(), sizes.end());
  }
  return key;
}

size_t position(const auto& items, const std::string& name, const char* kind) {
  const auto found = std::find_if(items.begin(), items.end(), [&](const auto& item) { return item.name == name; });
  if (found == items.end()) {
    fail(std::string("the plan and the signature of this engine disagree: ") + kind + " " + quoted(name) +
         " is in one of them only");
  }
  return found - items.begin();
}

at::Tensor moved(const at::Tensor& tensor, at::Device device, c10::ScalarType dtype) {
  return tensor.device() == device && tensor.scalar_type() == dtype ? tensor : tensor.to(device, dtype);
}

// How inputs of certain shapes, dtypes and devices reach an engine, all checks passed.
class Route {
 public:
  Route(std::shared_ptr<Session> session, const Signature& signature, const RunOptions& options, at::TensorList inputs)
      : session_(std::move(session)), home_(session_->device) {
    static std::atomic<uint64_t> ids{0};
    kind_.id = ++ids;
    kind_.profile = options.profile;
    kind_.cuda_graphs = options.cuda_graphs;
    for (const at::Tensor& tensor : inputs) {
      taken_.push_back({tensor.scalar_type(), tensor.device(), at::DimVector(tensor.sizes())});
    }
    plain_ = true;
    for (const Binding& binding : session_->inputs) {
      const size_t place = position(signature.inputs, binding.name, "input");
      plain_ &= place == order_.size() && inputs[place].scalar_type() == binding.dtype &&
          inputs[place].device() == session_->input_devices[order_.size()];
      order_.push_back(place);
      kind_.sizes.emplace_back(inputs[place].sizes());
    }
    plain_ &= order_.size() == inputs.size() && signature.outputs.size() == session_->outputs.size();
    for (const OutputSignature& output : signature.outputs) {
      const size_t place = position(session_->outputs, output.name, "output");
      plain_ &= place == output_order_.size() && session_->outputs[place].dtype == output.dtype &&
          session_->output_devices[place] == home_;
      output_order_.push_back(place);
      output_dtypes_.push_back(output.dtype);
    }
  }

  // Whether it is the way of these inputs too.
  bool takes(at::TensorList inputs) const {
    if (inputs.size() != taken_.size()) {
      return false;
    }
    for (size_t index = 0; index < taken_.size(); ++index) {
      const Taken& taken = taken_[index];
      const at::Tensor& tensor = inputs[index];
      if (tensor.scalar_type() != taken.dtype || tensor.sizes() != at::IntArrayRef(taken.sizes) || tensor.device() != taken.device) {
        return false;
      }
    }
    return true;
  }

  // `place`: where the calls of this route from this thread ran last.
  Tensors run(at::TensorList inputs, Place& place) const {
    if (plain_ && lie_as_wanted(inputs)) {
      return session_->run(kind_, inputs, place);
    }
    Tensors ready;
    for (size_t index = 0; index < order_.size(); ++index) {
      const at::Tensor& tensor = inputs[order_[index]];
      ready.push_back(moved(tensor, session_->input_devices[index], session_->inputs[index].dtype)
                          .contiguous(session_->input_formats[index]));
    }
    const Tensors given = session_->run(kind_, ready, place);
    Tensors outputs;
    for (size_t index = 0; index < output_order_.size(); ++index) {
      outputs.push_back(moved(given[output_order_[index]], home_, output_dtypes_[index]));
    }
    return outputs;
  }

  // Calls that begin from now on find another: options or the plan are new.
  void retire() const {
    retired_.store(true, std::memory_order_release);
  }

  bool is_retired() const {
    return retired_.load(std::memory_order_acquire);
  }

 private:
  // Whether the engine takes these inputs as they are in memory; they are in its order.
  bool lie_as_wanted(at::TensorList inputs) const {
    for (size_t index = 0; index < inputs.size(); ++index) {
      if (!inputs[index].is_contiguous(session_->input_formats[index])) {
        return false;
      }
    }
    return true;
  }

  struct Taken {
    c10::ScalarType dtype;
    at::Device device;
    at::DimVector sizes;
  };

  std::shared_ptr<Session> session_;
  at::Device home_;
  CallKind kind_;
  std::vector<Taken> taken_;
  std::vector<size_t> order_, output_order_;
  std::vector<c10::ScalarType> output_dtypes_;
  bool plain_;
  mutable std::atomic<bool> retired_{false};
};

// A plan under one signature.
struct Calls {
  explicit Calls(std::string_view text) : text(text), signature(text), options(signature.options) {}
  ~Calls() {
    retire();
  }

  void retire() {
    for (const auto& [key, route] : routes) {
      route->retire();
    }
    routes.clear();
  }

  const std::string text;
  const Signature signature;
  RunOptions options; // the signature's, and over them those that were set since
  std::unordered_map<Key, std::shared_ptr<const Route>, KeyHash> routes;
};

at::Device device_of(at::TensorList inputs) {
  for (const at::Tensor& tensor : inputs) {
    if (tensor.is_cuda()) {
      return tensor.device();
    }
  }
  return c10::cuda::device_count() > 0 ? at::Device(at::kCUDA, c10::cuda::current_device()) : at::Device(at::kCPU);
}

// What hangs on a plan's tensor. A copy or a view of the tensor starts anew.
class State : public c10::BackendMeta {
 public:
  c10::intrusive_ptr<c10::BackendMeta> clone(const c10::intrusive_ptr<c10::BackendMeta>&) const override {
    return {};
  }

  // The way of this call; null where the library leaves the plan to Python.
  std::shared_ptr<const Route> route(at::TensorList inputs, const at::Tensor& plan, std::string_view text) {
    const Key key = key_of(inputs);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!why_not_here_.has_value()) {
      why_not_here_ = why_not_here(Plan::from_tensor(plan));
    }
    if (!why_not_here_->empty()) {
      return nullptr;
    }
    Calls& calls = calls_of(text);
    auto found = calls.routes.find(key);
    if (found == calls.routes.end()) {
      auto route = make(calls, inputs, plan);
      if (calls.routes.size() >= kMostRoutes) {
        calls.retire();
      }
      found = calls.routes.emplace(key, std::move(route)).first;
    }
    return found->second;
  }

  // Takes over options; the plan itself may be new, too.
  void configure(const Json& options) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::erase_if(configured_, [&](const Json& before) { // what these options say anew
      return std::all_of(before.object().begin(), before.object().end(), [&](const auto& item) {
        return options.find(item.first) != nullptr;
      });
    });
    configured_.push_back(options);
    calls_.clear();
    why_not_here_.reset();
  }

  std::string why_in_python() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return why_not_here_.value_or("");
  }

 private:
  // Empty where the library runs this plan itself.
  static std::string why_not_here(const Plan& plan) {
    if (plan.backend != "tensorrt") {
      return "this plan is for the backend " + quoted(plan.backend) + "; in C++ only TensorRT engines run";
    }
    if (plan.version.substr(0, plan.version.find('.')) != std::to_string(NV_TENSORRT_MAJOR)) {
      return "this engine was built with TensorRT " + plan.version + "; this library runs those of TensorRT " +
          std::to_string(NV_TENSORRT_MAJOR);
    }
    return {};
  }

  Calls& calls_of(std::string_view text) {
    for (const auto& calls : calls_) {
      if (calls->text == text) {
        return *calls;
      }
    }
    auto calls = std::make_unique<Calls>(text);
    for (const Json& options : configured_) {
      calls->options.update(options);
    }
    if (calls_.size() >= kMostSignatures) {
      calls_.erase(calls_.begin());
    }
    return *calls_.emplace_back(std::move(calls));
  }

  std::shared_ptr<const Route> make(const Calls& calls, at::TensorList inputs, const at::Tensor& tensor) const {
    calls.signature.check_inputs(inputs);
    const at::Device device = device_of(inputs);
    calls.signature.check_devices(inputs, device);
    auto session = Session::load(Plan::from_tensor(tensor), device);
    return std::make_shared<const Route>(std::move(session), calls.signature, calls.options, inputs);
  }

  std::mutex mutex_;
  std::optional<std::string> why_not_here_; // none: not looked at yet
  std::vector<std::unique_ptr<Calls>> calls_;
  std::vector<Json> configured_;
};

State& state_of(const at::Tensor& plan) {
  static auto* const mutex = new std::mutex;
  const std::lock_guard<std::mutex> lock(*mutex);
  c10::TensorImpl* impl = plan.unsafeGetTensorImpl();
  if (auto* state = static_cast<State*>(impl->get_backend_meta())) {
    return *state;
  }
  auto made = c10::make_intrusive<State>();
  State& state = *made;
  impl->set_backend_meta(std::move(made));
  return state;
}

// The call of a plan that this thread made last. A route lives no longer than the plan's tensor and the calls that are under
// way, and each of these holds the tensor: while the route is there, the address is that tensor's.
struct Recent {
  const c10::TensorImpl* plan = nullptr;
  Text text;
  std::weak_ptr<const Route> route;
  Place place;
};

Recent& recent_of(const at::Tensor& plan) {
  thread_local std::array<Recent, kRecent> all;
  const auto address = reinterpret_cast<uintptr_t>(plan.unsafeGetTensorImpl());
  return all[(address * 0x9e3779b97f4a7c15ull) >> 32 & (kRecent - 1)];
}

// The way that this thread's last call of the plan took, where this call is like it.
std::shared_ptr<const Route> same_route(const Recent& recent, at::TensorList inputs, const at::Tensor& plan, const Text& text) {
  if (recent.plan != plan.unsafeGetTensorImpl() || (recent.text != text && recent.text->string() != text->string())) {
    return nullptr;
  }
  auto route = recent.route.lock();
  return route != nullptr && !route->is_retired() && route->takes(inputs) ? route : nullptr;
}

Tensors run_in_python(State& state, at::TensorList inputs, const at::Tensor& plan, const std::string& signature) {
  const auto python = c10::Dispatcher::singleton().findSchema({kPython, ""});
  if (!python.has_value()) {
    fail(state.why_in_python(), {}, "compile again for TensorRT " + std::to_string(NV_TENSORRT_MAJOR) +
         ", or run the module in a process that has imported bridge");
  }
  std::vector<c10::IValue> stack{c10::List<at::Tensor>(inputs.vec()), plan, signature};
  python->callBoxed(stack);
  return stack.back().toTensorVector();
}

Tensors run(at::TensorList inputs, const at::Tensor& plan, const Text& text) {
  Recent& recent = recent_of(plan);
  auto route = same_route(recent, inputs, plan, text);
  if (route == nullptr) {
    State& state = state_of(plan);
    route = state.route(inputs, plan, text->string());
    if (route == nullptr) {
      return run_in_python(state, inputs, plan, text->string());
    }
    recent = {plan.unsafeGetTensorImpl(), text, route, {}};
  }
  const at::AutoDispatchBelowADInplaceOrView guard; // engines are not differentiable
  return route->run(inputs, recent.place);
}

// The operator. Boxed, as TorchScript and Python call it: the list of inputs is read where it is.
void execute_engine(const c10::OperatorHandle&, torch::jit::Stack* stack) {
  Inputs inputs;
  for (const c10::IValue& item : torch::jit::peek(*stack, 0, 3).toListRef()) {
    inputs.push_back(item.toTensor());
  }
  Tensors outputs = run(inputs, torch::jit::peek(*stack, 1, 3).toTensor(), torch::jit::peek(*stack, 2, 3).toString());
  c10::List<at::Tensor> results;
  results.reserve(outputs.size());
  for (at::Tensor& output : outputs) {
    results.push_back(std::move(output));
  }
  torch::jit::drop(*stack, 3);
  stack->emplace_back(std::move(results));
}

// Lets the calls of this plan, from the next one on, run with these options (JSON) over those in their signature.
void configure_engine(const at::Tensor& plan, std::string_view options) {
  state_of(plan).configure(Json::parse(options));
}

TORCH_LIBRARY_FRAGMENT(bridge, library) {
  if (c10::Dispatcher::singleton().findSchema({"bridge::execute_engine", ""}).has_value()) {
    return; // Python was first, and goes on
  }
  library.def(kSchema);
  library.def("configure_engine(Tensor plan, str options) -> ()");
  for (const auto key : {c10::DispatchKey::CPU, c10::DispatchKey::CUDA}) {
    library.impl("execute_engine", key, torch::CppFunction::makeFromBoxedFunction<&execute_engine>());
    library.impl("configure_engine", key, TORCH_FN(configure_engine));
  }
  library.impl("execute_engine", c10::DispatchKey::Autograd, torch::CppFunction::makeFallthrough());
}

} // namespace

} // namespace bridge

// What Python tells the library, and asks it.
extern "C" {

// A JSON object: the version of TensorRT's headers that this was built with.
__attribute__((visibility("default"))) const char* bridge_runtime_info() {
  static const std::string text = "{\"tensorrt\":\"" + std::to_string(NV_TENSORRT_MAJOR) + "." +
      std::to_string(NV_TENSORRT_MINOR) + "." + std::to_string(NV_TENSORRT_PATCH) + "\"}";
  return text.c_str();
}

__attribute__((visibility("default"))) void bridge_runtime_set_tensorrt(const char* path) {
  bridge::set_tensorrt_library(path);
}

// How many engines are loaded.
__attribute__((visibility("default"))) size_t bridge_runtime_engines() {
  return bridge::Session::count();
}

// How many calls that repeat are CUDA graphs now.
__attribute__((visibility("default"))) size_t bridge_runtime_graphs() {
  return bridge::Replay::count();
}

// Frees all engines; C++ programs need not call it: it runs when the process ends, which is late for Python.
__attribute__((visibility("default"))) void bridge_runtime_close() {
  bridge::Session::close_everything();
}

__attribute__((visibility("default"))) void bridge_runtime_set_log(bridge::LogSink sink) {
  bridge::set_log_sink(sink);
}
}
