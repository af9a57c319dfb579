#include "error.h"

#include <c10/util/Exception.h>

namespace bridge {

void fail(const std::string& what, const std::string& why, const std::string& hint) {
  std::string text = what;
  if (!why.empty()) {
    text += "\n  because: " + why;
  }
  if (!hint.empty()) {
    text += "\n  -> " + hint;
  }
  throw c10::Error(text, nullptr);
}

} // namespace bridge
