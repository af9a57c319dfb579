#pragma once

#include <c10/core/ScalarType.h>

#include <string>
#include <string_view>

namespace bridge {

// Element types by their PyTorch name, the one spelling that plans and signatures use: "float32", "bool", ...
std::string name_of(c10::ScalarType dtype);

// Throws for a name that no plan holds.
c10::ScalarType dtype_of(std::string_view name);

} // namespace bridge
