#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace bridge {

// A JSON value (RFC 8259): what plans' headers and signatures are written in.
class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;

  Json() = default;

  // Throws when the text is no JSON.
  static Json parse(std::string_view text);

  bool is_null() const {
    return std::holds_alternative<std::monostate>(value_);
  }
  bool is_string() const {
    return std::holds_alternative<std::string>(value_);
  }
  bool is_object() const {
    return std::holds_alternative<Object>(value_);
  }

  // Each throws when the value is of another kind.
  const std::string& string() const;
  int64_t integer() const;
  bool boolean() const;
  const Array& array() const;
  const Object& object() const;

  // The member of that name; `at` throws where there is none, `find` gives nullptr.
  const Json& at(std::string_view name) const;
  const Json* find(std::string_view name) const;

 private:
  friend class JsonParser;
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value_;
};

} // namespace bridge
