#include "plan.h"

#include <algorithm>
#include <cstring>

#include "dtypes.h"
#include "error.h"

namespace bridge {

namespace {

constexpr std::string_view kMagic = "BRIDGEPL";
constexpr uint32_t kFormat = 1;

// Little-endian, as the file is and as every machine with TensorRT is.
struct Prefix {
  char magic[8];
  uint32_t version;
  uint32_t zero;
  uint64_t header_length;
};
static_assert(sizeof(Prefix) == 24);

std::string with_commas(size_t number) {
  std::string digits = std::to_string(number);
  for (auto at = static_cast<int64_t>(digits.size()) - 3; at > 0; at -= 3) {
    digits.insert(at, ",");
  }
  return digits;
}

std::vector<Binding> bindings(const Json& items) {
  std::vector<Binding> result;
  for (const Json& item : items.array()) {
    result.push_back({item.at("name").string(), dtype_of(item.at("dtype").string())});
  }
  return result;
}

bool is_set(const Json& settings, std::string_view name) {
  const Json* found = settings.find(name);
  return found != nullptr && !found->is_null() && found->boolean();
}

std::string text_or_empty(const Json& object, std::string_view name) {
  const Json* found = object.find(name);
  return found != nullptr && found->is_string() ? found->string() : std::string();
}

} // namespace

Plan::Plan(at::Tensor tensor)
    : tensor_(std::move(tensor)),
      bytes_(static_cast<const char*>(tensor_.const_data_ptr()), static_cast<size_t>(tensor_.nbytes())) {
  const Json record = read_record();
  digest = record.at("digest").string();
  backend = record.at("backend").string();
  version = record.at("version").string();
  inputs = bindings(record.at("inputs"));
  outputs = bindings(record.at("outputs"));
  device_name = text_or_empty(record.at("device"), "name");
  capability = text_or_empty(record.at("device"), "capability");
  version_compatible = is_set(record.at("settings"), "version_compatible");
  hardware_compatible = is_set(record.at("settings"), "hardware_compatible");
  size_t end = 0;
  for (const Json& section : record.at("sections").array()) {
    const auto& entry = section.array();
    const int64_t start = entry.at(1).integer(), size = entry.at(2).integer();
    sections_[entry.at(0).string()] = {start, size};
    end = std::max(end, static_cast<size_t>(start + size));
  }
  if (end > bytes_.size()) {
    fail(
        "this plan is cut short: " + with_commas(bytes_.size()) + " of " + with_commas(end) + " bytes",
        {},
        "save it again");
  }
}

Plan Plan::from_tensor(const at::Tensor& tensor) {
  return Plan(tensor.cpu().contiguous().view(-1));
}

Json Plan::read_record() const {
  Prefix prefix;
  if (bytes_.size() < sizeof(prefix) || bytes_.substr(0, kMagic.size()) != kMagic) {
    fail("these bytes are no plan of bridge", {}, "bridge.embed_engine_in_new_module takes raw engines");
  }
  std::memcpy(&prefix, bytes_.data(), sizeof(prefix));
  if (prefix.version != kFormat) {
    fail(
        "this plan has format version " + std::to_string(prefix.version) + "; this runtime reads " +
            std::to_string(kFormat),
        {},
        "update bridge, or compile the module again");
  }
  return Json::parse(bytes_.substr(sizeof(prefix), prefix.header_length));
}

std::string_view Plan::section(const std::string& name) const {
  const auto found = sections_.find(name);
  if (found == sections_.end()) {
    fail("this plan is damaged: it has no section '" + name + "'");
  }
  return bytes_.substr(found->second.first, found->second.second);
}

} // namespace bridge
