#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "json.h"

namespace bridge {

// An input or output of an engine: the engine's own name for it, and its dtype's PyTorch name.
struct Binding {
  std::string name;
  c10::ScalarType dtype;
};

// A view of a plan's bytes: the container that bridge/runtime/plan.py writes and describes.
class Plan {
 public:
  // `tensor` is uint8, one-dimensional, contiguous and on the CPU. Throws when its bytes are no plan, are cut short, or
  // have a newer format.
  explicit Plan(at::Tensor tensor);

  // The same for a tensor on any device.
  static Plan from_tensor(const at::Tensor& tensor);

  std::string_view section(const std::string& name) const;

  std::string digest, backend, version;
  std::vector<Binding> inputs, outputs;
  std::string device_name, capability; // of the GPU it was built for; empty where any will do
  bool version_compatible = false, hardware_compatible = false;

 private:
  Json read_record() const;

  at::Tensor tensor_;
  std::string_view bytes_;
  std::map<std::string, std::pair<int64_t, int64_t>> sections_;
};

} // namespace bridge
