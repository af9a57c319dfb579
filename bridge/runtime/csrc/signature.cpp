#include "signature.h"

#include <algorithm>
#include <map>

#include "dtypes.h"
#include "error.h"
#include "text.h"

namespace bridge {

namespace {

constexpr int64_t kVersion = 1;
constexpr int64_t kMostSizes = 64;

Range range_of(const Json& dim) {
  if (!dim.is_object()) {
    return {dim.integer(), dim.integer(), {}, true};
  }
  const Json& name = dim.at("name");
  return {dim.at("min").integer(), dim.at("max").integer(), name.is_null() ? std::string() : name.string(), false};
}

InputSignature input_of(const Json& item) {
  InputSignature result{item.at("name").string(), item.at("dtype").string(), {}, std::nullopt};
  for (const Json& dtype : item.at("accepts").array()) {
    result.accepts.push_back(dtype.string());
  }
  if (const Json& dims = item.at("dims"); !dims.is_null()) {
    result.dims.emplace();
    for (const Json& dim : dims.array()) {
      result.dims->push_back(range_of(dim));
    }
  }
  return result;
}

std::string shape_text(at::IntArrayRef shape) {
  return shape.empty() ? "a scalar" : join(shape, "x", [](int64_t size) { return std::to_string(size); });
}

std::string may_be(const InputSignature& wanted) {
  return "(" + join(*wanted.dims, ", ", [](const Range& dim) {
           if (dim.fixed) {
             return std::to_string(dim.min);
           }
           const std::string range = std::to_string(dim.min) + ".." + std::to_string(dim.max);
           return dim.name.empty() ? range : dim.name + "=" + range;
         }) + ")";
}

void check_dtype(const InputSignature& wanted, const at::Tensor& tensor) {
  const std::string name = name_of(tensor.scalar_type());
  std::vector<std::string> choices{wanted.dtype};
  for (const std::string& choice : wanted.accepts) {
    if (std::find(choices.begin(), choices.end(), choice) == choices.end()) {
      choices.push_back(choice);
    }
  }
  if (std::find(choices.begin(), choices.end(), name) == choices.end()) {
    fail(
        "input " + quoted(wanted.name) + " has dtype " + name + "; it may be " +
            join(choices, " or ", [](const std::string& choice) { return choice; }),
        {},
        "pass " + wanted.name + ".to(torch." + wanted.dtype + ")");
  }
}

void check_size(const InputSignature& wanted, at::IntArrayRef shape, size_t axis) {
  const Range& dim = (*wanted.dims)[axis];
  if (dim.min <= shape[axis] && shape[axis] <= dim.max) {
    return;
  }
  const bool is_range = dim.min != dim.max;
  fail(
      "input " + quoted(wanted.name) + " has shape " + shape_text(shape) + "; dimension " + std::to_string(axis) +
          " is " + std::to_string(shape[axis]) + " and may be " + std::to_string(dim.min) +
          (is_range ? " to " + std::to_string(dim.max) : std::string()),
      "the engine was built for " + may_be(wanted),
      std::string("compile with ") + (is_range ? "a min and max that include it" : "a range for this dimension"));
}

struct Seen {
  std::string where;
  int64_t size;
};

void check_shape(const InputSignature& wanted, at::IntArrayRef shape, std::map<std::string, Seen>& seen) {
  if (!wanted.dims.has_value()) {
    return;
  }
  if (shape.size() != wanted.dims->size()) {
    fail(
        "input " + quoted(wanted.name) + " has rank " + std::to_string(shape.size()) + " (" + shape_text(shape) +
        "); the engine takes rank " + std::to_string(wanted.dims->size()) + ": " + may_be(wanted));
  }
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    check_size(wanted, shape, axis);
    const std::string& name = (*wanted.dims)[axis].name;
    if (name.empty()) {
      continue;
    }
    const std::string where = quoted(wanted.name) + ", dimension " + std::to_string(axis);
    const auto& first = seen.try_emplace(name, Seen{where, shape[axis]}).first->second;
    if (first.size != shape[axis]) {
      fail(
          "input " + quoted(wanted.name) + " has shape " + shape_text(shape) + "; dimension " + std::to_string(axis) +
              " (" + quoted(name) + ") is " + std::to_string(shape[axis]) + ", but " + std::to_string(first.size) +
              " in " + first.where,
          "dimensions of one name have one size");
    }
  }
}

} // namespace

void RunOptions::update(const Json& options) {
  if (const Json* found = options.find("profile")) {
    profile = found->is_null() ? std::nullopt : std::optional<int64_t>(found->integer());
  }
  if (const Json* found = options.find("cuda_graphs")) {
    cuda_graphs = found->is_null() ? std::nullopt : std::optional<bool>(found->boolean());
  }
}

Signature::Signature(std::string_view text) {
  const Json record = Json::parse(text);
  if (const int64_t version = record.at("version").integer(); version != kVersion) {
    fail(
        "this module's engine call has signature version " + std::to_string(version) + "; this bridge reads " +
            std::to_string(kVersion),
        {},
        "update bridge, or compile the module again");
  }
  for (const Json& item : record.at("inputs").array()) {
    inputs.push_back(input_of(item));
  }
  for (const Json& item : record.at("outputs").array()) {
    outputs.push_back({item.at("name").string(), dtype_of(item.at("dtype").string())});
  }
  options.update(record.at("options"));
}

void Signature::check_inputs(at::TensorList tensors) const {
  if (tensors.size() != inputs.size()) {
    const std::string names = join(inputs, ", ", [](const InputSignature& item) { return item.name; });
    fail(
        "the engine takes " + std::to_string(inputs.size()) + " inputs (" + (names.empty() ? "none" : names) +
        "); it got " + std::to_string(tensors.size()));
  }
  std::map<std::string, Seen> seen;
  for (size_t index = 0; index < inputs.size(); ++index) {
    check_dtype(inputs[index], tensors[index]);
    check_shape(inputs[index], tensors[index].sizes(), seen);
  }
}

void Signature::check_devices(at::TensorList tensors, at::Device device) const {
  for (size_t index = 0; index < inputs.size(); ++index) {
    const at::Tensor& tensor = tensors[index];
    const bool small = tensor.is_cpu() && tensor.numel() <= kMostSizes && !tensor.is_floating_point();
    if (tensor.device() != device && !small) {
      fail(
          "input " + quoted(inputs[index].name) + " is on " + tensor.device().str() + "; this engine runs on " +
              device.str(),
          {},
          "pass " + inputs[index].name + ".to('" + device.str() + "')");
    }
  }
}

} // namespace bridge
