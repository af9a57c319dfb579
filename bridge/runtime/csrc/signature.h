#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "json.h"

namespace bridge {

// The sizes a dimension may have, both ends included; dimensions of one name have one size in a call.
struct Range {
  int64_t min, max;
  std::string name; // empty: none
  bool fixed; // written as one size
};

struct InputSignature {
  std::string name, dtype;
  std::vector<std::string> accepts; // further dtypes, which are cast
  std::optional<std::vector<Range>> dims; // none: even the rank is free
};

struct OutputSignature {
  std::string name;
  c10::ScalarType dtype; // cast to when the engine gives another
};

// How an engine runs: see bridge.runtime.session.RunOptions.
struct RunOptions {
  std::optional<int64_t> profile;
  std::optional<bool> cuda_graphs;

  // Takes over what this object names; what it does not know it passes over.
  void update(const Json& options);
};

// The string argument of `bridge::execute_engine`, which bridge/runtime/signature.py writes and describes.
struct Signature {
  explicit Signature(std::string_view text);

  // Throws for the first input whose number, dtype, rank or shape does not fit.
  void check_inputs(at::TensorList tensors) const;

  // Throws for the first input that is not on `device`; up to 64 integers may come from the CPU.
  void check_devices(at::TensorList tensors, at::Device device) const;

  std::vector<InputSignature> inputs;
  std::vector<OutputSignature> outputs;
  RunOptions options;
};

} // namespace bridge
