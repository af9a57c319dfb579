#include "dtypes.h"

#include "error.h"

namespace bridge {

std::string name_of(c10::ScalarType dtype) {
  return std::string(c10::getDtypeNames(dtype).first);
}

c10::ScalarType dtype_of(const std::string& name) {
  const auto& known = c10::getStringToDtypeMap();
  const auto found = known.find(name);
  if (found == known.end()) {
    fail("this plan or signature names the dtype '" + name + "', which this runtime does not know");
  }
  return found->second;
}

} // namespace bridge
