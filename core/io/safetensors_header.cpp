#include "core/io/safetensors_header.h"

#include <limits>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace strata::io {
namespace {

using nlohmann::json;

/// Follows the events of the parser instead of a document: a document keeps the last of duplicate
/// names without a word, and nests as deep as the text asks.
class HeaderHandler final : public json::json_sax_t {
 public:
  explicit HeaderHandler(const std::filesystem::path& path) : path_(path) {}
  SafetensorsHeader take() { return std::move(header_); }

  bool start_object(std::size_t) override {
    if (at_ == At::nothing) {
      at_ = At::top;
    } else if (at_ == At::top) {
      at_ = name_ == kMetadata ? At::metadata : At::tensor;
    } else {
      unexpected("an object");
    }
    fields_.clear();
    return true;
  }
  bool key(string_t& text) override {
    if (at_ == At::top) {
      name_ = text;
      unique(names_, text);
      if (name_ != kMetadata) {
        header_.entries.emplace_back().name = text;
      }
    } else {
      field_ = text;
      unique(fields_, text);
      if (at_ == At::tensor && text != "dtype" && text != "shape" && text != "data_offsets") {
        fail("unknown field '" + text + "'");
      }
    }
    return true;
  }
  bool end_object() override {
    if (at_ == At::tensor && fields_.size() != 3) {
      fail("dtype, shape and data_offsets are needed");
    }
    at_ = at_ == At::top ? At::end : At::top;
    return true;
  }
  bool start_array(std::size_t) override {
    if (at_ != At::tensor || field_ == "dtype") {
      unexpected("an array");
    }
    at_ = At::numbers;
    numbers_.clear();
    return true;
  }
  bool end_array() override {
    at_ = At::tensor;
    SafetensorsEntry& entry = header_.entries.back();
    if (field_ == "shape") {
      entry.shape = numbers_;
      return true;
    }
    if (numbers_.size() != 2) {
      fail(fmt::format("data_offsets needs 2 numbers, has {}", numbers_.size()));
    }
    entry.begin = numbers_[0];
    entry.end = numbers_[1];
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (at_ != At::numbers) {
      unexpected("a number");
    }
    if (value > static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max())) {
      fail(fmt::format("{} holds {}, over 63 bits", field_, value));
    }
    numbers_.push_back(static_cast<std::int64_t>(value));
    return true;
  }
  bool number_integer(number_integer_t value) override {
    unexpected(fmt::format("the negative number {}", value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    unexpected("the non-integer " + text);
  }
  bool string(string_t& text) override {
    if (at_ == At::metadata) {
      header_.metadata[field_] = text;
    } else if (at_ == At::tensor && field_ == "dtype") {
      header_.entries.back().dtype = text;
    } else {
      unexpected("a string");
    }
    return true;
  }
  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("a boolean"); }
  bool binary(json::binary_t&) override { unexpected("binary data"); }
  bool parse_error(std::size_t position,
                   const std::string&,
                   const json::exception& error) override {
    throw Error(Errc::format,
                fmt::format("safetensors: '{}': the header is not JSON at byte {}: {}",
                            path_.string(),
                            position,
                            error.what()));
  }

 private:
  enum class At : std::uint8_t { nothing, top, metadata, tensor, numbers, end };
  static constexpr std::string_view kMetadata = "__metadata__";

  [[noreturn]] void fail(const std::string& what) const {
    const std::string where = name_.empty() ? "the header" : "'" + name_ + "'";
    throw Error(Errc::format,
                fmt::format("safetensors: '{}': {}: {}", path_.string(), where, what));
  }
  [[noreturn]] void unexpected(const std::string& found) const {
    const bool inside = at_ == At::metadata || at_ == At::tensor || at_ == At::numbers;
    fail((inside ? "field '" + field_ + "' holds " : std::string("found ")) + found +
         (at_ == At::metadata ? ", only strings are allowed"
                              : ", which the format does not allow there"));
  }
  void unique(std::set<std::string>& seen, const std::string& text) const {
    if (!seen.insert(text).second) {
      fail("the name '" + text + "' appears twice");
    }
  }

  const std::filesystem::path& path_;
  SafetensorsHeader header_;
  At at_ = At::nothing;
  std::string name_, field_;
  std::set<std::string> names_, fields_;
  std::vector<std::int64_t> numbers_;
};

std::string quoted(const std::string& text) {
  return json(text).dump();
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view text,
                                           const std::filesystem::path& path) {
  if (text.empty() || text.front() != '{') {
    throw Error(
        Errc::format,
        fmt::format("safetensors: '{}': the header is not JSON: it does not begin with '{{'",
                    path.string()));
  }
  HeaderHandler handler(path);
  json::sax_parse(text.begin(), text.end(), &handler);
  return handler.take();
}

std::string safetensors_json(const std::vector<SafetensorsEntry>& entries,
                             const std::map<std::string, std::string>& metadata) {
  std::vector<std::string> members;
  if (!metadata.empty()) {
    members.push_back("\"__metadata__\":" +
                      json(metadata).dump(-1, ' ', false, json::error_handler_t::replace));
  }
  for (const SafetensorsEntry& entry : entries) {
    members.push_back(fmt::format(R"({}:{{"dtype":{},"shape":[{}],"data_offsets":[{},{}]}})",
                                  quoted(entry.name),
                                  quoted(entry.dtype),
                                  fmt::join(entry.shape, ","),
                                  entry.begin,
                                  entry.end));
  }
  return fmt::format("{{{}}}", fmt::join(members, ","));
}

}  // namespace strata::io
