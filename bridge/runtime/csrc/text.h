#pragma once

#include <string>

namespace bridge {

inline std::string quoted(const std::string& name) {
  return "'" + name + "'";
}

// The texts of all items, with `between` between them.
template <class Items, class Text>
std::string join(const Items& items, const char* between, Text text) {
  std::string result;
  bool first = true;
  for (const auto& item : items) {
    result += first ? "" : between;
    result += text(item);
    first = false;
  }
  return result;
}

} // namespace bridge
