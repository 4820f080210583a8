#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/tokenizer_file.h"
#include "data/utf8.h"

namespace strata::data {
namespace {

class CharsTokenizer final : public Tokenizer {
 public:
  /// `characters`: distinct, ascending.
  explicit CharsTokenizer(std::vector<char32_t> characters) : characters_(std::move(characters)) {}

  std::string kind() const override { return "chars"; }
  std::int64_t vocab_size() const override { return static_cast<std::int64_t>(characters_.size()); }

  std::vector<std::int32_t> encode(std::string_view text) const override {
    require_utf8(text, "chars tokenizer");
    std::vector<std::int32_t> ids;
    ids.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
      const Utf8Char c = utf8_at(text, at);
      const auto found = std::lower_bound(characters_.begin(), characters_.end(), c.code);
      if (found == characters_.end() || *found != c.code) {
        throw unknown(text.substr(at, c.bytes), c.code, at);
      }
      ids.push_back(static_cast<std::int32_t>(found - characters_.begin()));
      at += c.bytes;
    }
    return ids;
  }

  std::string decode(std::span<const std::int32_t> ids) const override {
    std::string text;
    text.reserve(ids.size());
    for (const std::int32_t id : ids) {
      require_id(id, vocab_size(), "chars");
      append_utf8(text, characters_[static_cast<std::size_t>(id)]);
    }
    return text;
  }

  std::vector<File> files() const override {
    std::string all;
    for (const char32_t c : characters_) {
      append_utf8(all, c);
    }
    return tokenizer_file({{"kind", "chars"}, {"characters", all}});
  }

 private:
  Error unknown(std::string_view character, char32_t code, std::size_t at) const {
    const bool printable = code >= 0x20 && code != 0x7F;
    return Error(
        Errc::data,
        fmt::format("chars tokenizer: character {}U+{:04X} at byte {} is not among its {}; "
                    "remove it or use the byte tokenizer",
                    printable ? fmt::format("'{}' ", character) : "",
                    static_cast<std::uint32_t>(code),
                    at,
                    characters_.size()));
  }

  std::vector<char32_t> characters_;
};

}  // namespace

std::unique_ptr<Tokenizer> chars_tokenizer(std::string_view text) {
  if (text.empty()) {
    throw Error(
        Errc::data,
        "chars tokenizer: its characters come from the training text, which is empty; name a "
        "text that is not");
  }
  require_utf8(text, "chars tokenizer");
  std::vector<bool> seen(0x110000);
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = utf8_at(text, at);
    seen[c.code] = true;
    at += c.bytes;
  }
  std::vector<char32_t> characters;
  for (std::size_t code = 0; code < seen.size(); ++code) {
    if (seen[code]) {
      characters.push_back(static_cast<char32_t>(code));
    }
  }
  return std::make_unique<CharsTokenizer>(std::move(characters));
}

}  // namespace strata::data
