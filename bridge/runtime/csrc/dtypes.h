#pragma once

#include <c10/core/ScalarType.h>

#include <string>

namespace bridge {

// Element types by their PyTorch name, the one spelling that plans and signatures use: "float32", "bool", ...
std::string name_of(c10::ScalarType dtype);

// Throws for a name that PyTorch does not have.
c10::ScalarType dtype_of(const std::string& name);

} // namespace bridge
