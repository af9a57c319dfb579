#include "dtypes.h"

#include <c10/core/ScalarTypeToTypeMeta.h>

#include <utility>

#include "error.h"

namespace bridge {

namespace {

constexpr std::pair<std::string_view, c10::ScalarType> kNames[] = {
    {"float32", c10::kFloat},         {"float16", c10::kHalf},
    {"bfloat16", c10::kBFloat16},     {"int64", c10::kLong},
    {"int32", c10::kInt},             {"int8", c10::kChar},
    {"uint8", c10::kByte},            {"bool", c10::kBool},
    {"float64", c10::kDouble},        {"int16", c10::kShort},
    {"uint16", c10::kUInt16},         {"uint32", c10::kUInt32},
    {"uint64", c10::kUInt64},         {"float8_e4m3fn", c10::kFloat8_e4m3fn},
    {"float8_e5m2", c10::kFloat8_e5m2},
};

} // namespace

std::string name_of(c10::ScalarType dtype) {
  for (const auto& [name, known] : kNames) {
    if (known == dtype) {
      return std::string(name);
    }
  }
  return c10::toString(dtype); // no plan holds it: for a message only
}

c10::ScalarType dtype_of(std::string_view name) {
  for (const auto& [known, dtype] : kNames) {
    if (known == name) {
      return dtype;
    }
  }
  fail("this plan or signature names the dtype '" + std::string(name) + "', which this runtime does not know");
}

} // namespace bridge
