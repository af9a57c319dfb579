#include "json.h"

#include <charconv>
#include <cstdlib>

#include "error.h"

namespace bridge {

namespace {

constexpr int kDeepest = 64;

void append_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
    return;
  }
  int tails = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  constexpr uint8_t kLead[] = {0, 0xC0, 0xE0, 0xF0};
  out += static_cast<char>(kLead[tails] | (code >> (6 * tails)));
  while (tails-- > 0) {
    out += static_cast<char>(0x80 | ((code >> (6 * tails)) & 0x3F));
  }
}

template <class T>
const T& as(const auto& value, const char* kind) {
  const T* found = std::get_if<T>(&value);
  if (found == nullptr) {
    fail("this plan or signature is damaged: " + std::string(kind) + " expected in its JSON");
  }
  return *found;
}

} // namespace

class JsonParser {
 public:
  explicit JsonParser(std::string_view text) : text_(text) {}

  Json document() {
    Json result = value(0);
    blanks();
    require(at_ == text_.size());
    return result;
  }

 private:
  void require(bool condition) const {
    if (!condition) {
      fail("this plan or signature is damaged: its JSON breaks off at byte " + std::to_string(at_));
    }
  }

  void blanks() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) {
      ++at_;
    }
  }

  char peek() {
    blanks();
    require(at_ < text_.size());
    return text_[at_];
  }

  bool take(char wanted) {
    if (peek() != wanted) {
      return false;
    }
    ++at_;
    return true;
  }

  bool take_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) {
      return false;
    }
    at_ += word.size();
    return true;
  }

  Json value(int depth) {
    require(depth < kDeepest);
    Json result;
    switch (peek()) {
      case '{':
        result.value_ = members(depth);
        break;
      case '[':
        result.value_ = items(depth);
        break;
      case '"':
        result.value_ = text();
        break;
      case 't':
        require(take_word("true"));
        result.value_ = true;
        break;
      case 'f':
        require(take_word("false"));
        result.value_ = false;
        break;
      case 'n':
        require(take_word("null"));
        break;
      default:
        number(result);
    }
    return result;
  }

  Json::Object members(int depth) {
    Json::Object result;
    ++at_;
    if (take('}')) {
      return result;
    }
    do {
      require(peek() == '"');
      std::string name = text();
      require(take(':'));
      result.emplace_back(std::move(name), value(depth + 1));
    } while (take(','));
    require(take('}'));
    return result;
  }

  Json::Array items(int depth) {
    Json::Array result;
    ++at_;
    if (take(']')) {
      return result;
    }
    do {
      result.push_back(value(depth + 1));
    } while (take(','));
    require(take(']'));
    return result;
  }

  std::string text() {
    std::string result;
    for (++at_; require(at_ < text_.size()), text_[at_] != '"'; ++at_) {
      if (text_[at_] == '\\') {
        ++at_;
        escape(result);
      } else {
        result += text_[at_];
      }
    }
    ++at_;
    return result;
  }

  void escape(std::string& out) {
    require(at_ < text_.size());
    constexpr std::string_view kNames = "\"\\/bfnrt";
    constexpr std::string_view kMeant = "\"\\/\b\f\n\r\t";
    if (auto which = kNames.find(text_[at_]); which != std::string_view::npos) {
      out += kMeant[which];
      return;
    }
    require(text_[at_] == 'u');
    uint32_t code = hex4();
    if (code >= 0xD800 && code < 0xDC00 && text_.substr(at_ + 1, 2) == "\\u") { // the first half of a pair
      at_ += 2;
      code = 0x10000 + ((code - 0xD800) << 10) + (hex4() - 0xDC00);
    }
    append_utf8(out, code);
  }

  // Reads the four digits after the `u` at `at_`, and stays on the last.
  uint32_t hex4() {
    require(at_ + 4 < text_.size());
    uint32_t code = 0;
    const char* first = text_.data() + at_ + 1;
    require(std::from_chars(first, first + 4, code, 16).ptr == first + 4);
    at_ += 4;
    return code;
  }

  void number(Json& result) {
    const char* first = text_.data() + at_;
    const char* last = text_.data() + text_.size();
    int64_t whole = 0;
    auto [end, error] = std::from_chars(first, last, whole);
    require(error == std::errc() || error == std::errc::result_out_of_range);
    result.value_ = whole;
    if (error != std::errc() || (end < last && std::string_view(".eE").find(*end) != std::string_view::npos)) {
      double real = 0;
      end = std::from_chars(first, last, real).ptr;
      result.value_ = real;
    }
    require(end != first);
    at_ += end - first;
  }

  std::string_view text_;
  size_t at_ = 0;
};

Json Json::parse(std::string_view text) {
  return JsonParser(text).document();
}

const std::string& Json::string() const {
  return as<std::string>(value_, "a text");
}

int64_t Json::integer() const {
  return as<int64_t>(value_, "a whole number");
}

bool Json::boolean() const {
  return as<bool>(value_, "true or false");
}

const Json::Array& Json::array() const {
  return as<Array>(value_, "a list");
}

const Json::Object& Json::object() const {
  return as<Object>(value_, "an object");
}

const Json* Json::find(std::string_view name) const {
  for (const auto& [key, value] : object()) {
    if (key == name) {
      return &value;
    }
  }
  return nullptr;
}

const Json& Json::at(std::string_view name) const {
  const Json* found = find(name);
  if (found == nullptr) {
    fail("this plan or signature is damaged: '" + std::string(name) + "' is missing in its JSON");
  }
  return *found;
}

} // namespace bridge
