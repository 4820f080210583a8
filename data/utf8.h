#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace strata::data {

/// A character and the bytes it takes; bytes == 0: what stands there is no UTF-8 (truncated,
/// overlong, a surrogate, above U+10FFFF).
struct Utf8Char {
  char32_t code = 0;
  std::size_t bytes = 0;
};
/// The character that starts at text[at]; at < text.size().
Utf8Char utf8_at(std::string_view text, std::size_t at);
void append_utf8(std::string& text, char32_t code);
/// Offset of the first byte that is no UTF-8.
std::optional<std::size_t> first_invalid_utf8(std::string_view text);
/// Throws data, naming the offset and the byte, when `text` is not UTF-8. `who` starts the message.
void require_utf8(std::string_view text, std::string_view who);

}  // namespace strata::data
