// `bridge::execute_engine` in C++: the schema that bridge/runtime/op.py describes, for TensorRT's engines.
//
// What a call needs (the loaded engine, the checks that its shapes have passed, the casts) hangs on the plan's tensor and goes
// with it; a call with shapes seen before is a look-up in a table.

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/_to_copy.h>
#include <c10/core/TensorImpl.h>
#include <c10/cuda/CUDAFunctions.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <numeric>
#include <unordered_map>

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
constexpr const char* kSchema = "execute_engine(Tensor[] inputs, Tensor plan, str signature) -> Tensor[]";
constexpr const char* kPython = "bridge::execute_engine_in_python"; // registered by the Python package

using Tensors = std::vector<at::Tensor>;

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

  Tensors run(at::TensorList inputs) const {
    if (plain_ && std::all_of(inputs.begin(), inputs.end(), [](const at::Tensor& item) { return item.is_contiguous(); })) {
      return session_->run(kind_, inputs);
    }
    Tensors ready;
    for (size_t index = 0; index < order_.size(); ++index) {
      const at::Tensor& tensor = inputs[order_[index]];
      ready.push_back(moved(tensor, session_->input_devices[index], session_->inputs[index].dtype).contiguous());
    }
    const Tensors given = session_->run(kind_, ready);
    Tensors outputs;
    for (size_t index = 0; index < output_order_.size(); ++index) {
      outputs.push_back(moved(given[output_order_[index]], home_, output_dtypes_[index]));
    }
    return outputs;
  }

 private:
  std::shared_ptr<Session> session_;
  at::Device home_;
  CallKind kind_;
  std::vector<size_t> order_, output_order_;
  std::vector<c10::ScalarType> output_dtypes_;
  bool plain_;
};

// A plan under one signature.
struct Calls {
  explicit Calls(std::string_view text) : text(text), signature(text), options(signature.options) {}

  const std::string text;
  const Signature signature;
  RunOptions options; // the signature's, and over them those that were set since
  std::unordered_map<Key, std::shared_ptr<const Route>, KeyHash> routes;
  Key last_key;
  std::shared_ptr<const Route> last;
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
  explicit State(const at::Tensor& tensor) {
    const Plan plan = Plan::from_tensor(tensor);
    if (plan.backend != "tensorrt") {
      why_not_here = "this plan is for the backend " + quoted(plan.backend) + "; in C++ only TensorRT engines run";
    } else if (plan.version.substr(0, plan.version.find('.')) != std::to_string(NV_TENSORRT_MAJOR)) {
      why_not_here = "this engine was built with TensorRT " + plan.version + "; this library runs those of TensorRT " +
          std::to_string(NV_TENSORRT_MAJOR);
    }
  }

  c10::intrusive_ptr<c10::BackendMeta> clone(const c10::intrusive_ptr<c10::BackendMeta>&) const override {
    return {};
  }

  // The way of this call.
  std::shared_ptr<const Route> route(at::TensorList inputs, const at::Tensor& plan, std::string_view text) {
    const Key key = key_of(inputs);
    const std::lock_guard<std::mutex> lock(mutex_);
    Calls& calls = calls_of(text);
    if (calls.last != nullptr && calls.last_key == key) {
      return calls.last;
    }
    auto found = calls.routes.find(key);
    if (found == calls.routes.end()) {
      auto route = make(calls, inputs, plan);
      if (calls.routes.size() >= kMostRoutes) {
        calls.routes.clear();
      }
      found = calls.routes.emplace(key, std::move(route)).first;
    }
    calls.last_key = key;
    calls.last = found->second;
    return found->second;
  }

  void configure(const Json& options) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::erase_if(configured_, [&](const Json& before) { // what these options say anew
      return std::all_of(before.object().begin(), before.object().end(), [&](const auto& item) {
        return options.find(item.first) != nullptr;
      });
    });
    configured_.push_back(options);
    calls_.clear();
  }

  std::string why_not_here; // empty where the library runs this plan itself

 private:
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
  auto made = c10::make_intrusive<State>(plan);
  State& state = *made;
  impl->set_backend_meta(std::move(made));
  return state;
}

Tensors run_in_python(const State& state, at::TensorList inputs, const at::Tensor& plan, std::string_view signature) {
  const auto python = c10::Dispatcher::singleton().findSchema({kPython, ""});
  if (!python.has_value()) {
    fail(state.why_not_here, {}, "compile again for TensorRT " + std::to_string(NV_TENSORRT_MAJOR) +
         ", or run the module in a process that has imported bridge");
  }
  std::vector<c10::IValue> stack{c10::List<at::Tensor>(inputs.vec()), plan, std::string(signature)};
  python->callBoxed(stack);
  return stack.back().toTensorVector();
}

Tensors execute_engine(at::TensorList inputs, const at::Tensor& plan, std::string_view signature) {
  State& state = state_of(plan);
  if (!state.why_not_here.empty()) {
    return run_in_python(state, inputs, plan, signature);
  }
  const auto route = state.route(inputs, plan, signature);
  const at::AutoDispatchBelowADInplaceOrView guard; // engines are not differentiable
  return route->run(inputs);
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
    library.impl("execute_engine", key, TORCH_FN(execute_engine));
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

// Frees all engines; C++ programs need not call it: it runs when the process ends, which is late for Python.
__attribute__((visibility("default"))) void bridge_runtime_close() {
  bridge::Session::close_everything();
}

__attribute__((visibility("default"))) void bridge_runtime_set_log(bridge::LogSink sink) {
  bridge::set_log_sink(sink);
}
}
