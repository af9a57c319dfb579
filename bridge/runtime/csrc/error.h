#pragma once

#include <string>

namespace bridge {

// Throws what PyTorch turns into a RuntimeError, laid out like bridge.errors.BridgeError: what, why, and what to try.
[[noreturn]] void fail(const std::string& what, const std::string& why = {}, const std::string& hint = {});

} // namespace bridge
