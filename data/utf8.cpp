#include "data/utf8.h"

#include <cstring>

#include <fmt/format.h>

#include "core/error.h"

namespace strata::data {
namespace {

/// Bytes a lead byte announces and the bits of the code it carries; 0 for no lead byte.
Utf8Char lead(unsigned char byte) {
  if (byte < 0x80) {
    return {byte, 1};
  }
  if (byte >= 0xC2 && byte < 0xE0) {
    return {byte & 0x1Fu, 2};
  }
  if (byte >= 0xE0 && byte < 0xF0) {
    return {byte & 0x0Fu, 3};
  }
  if (byte >= 0xF0 && byte < 0xF5) {
    return {byte & 0x07u, 4};
  }
  return {};
}

std::size_t ascii_run(std::string_view text, std::size_t at) {
  while (at + 8 <= text.size()) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data() + at, 8);
    if ((word & 0x8080808080808080ull) != 0) {
      break;
    }
    at += 8;
  }
  return at;
}

}  // namespace

Utf8Char utf8_at(std::string_view text, std::size_t at) {
  Utf8Char c = lead(static_cast<unsigned char>(text[at]));
  if (at + c.bytes > text.size()) {
    return {};
  }
  for (std::size_t i = 1; i < c.bytes; ++i) {
    const auto byte = static_cast<unsigned char>(text[at + i]);
    if ((byte & 0xC0u) != 0x80u) {
      return {};
    }
    c.code = (c.code << 6) | (byte & 0x3Fu);
  }
  const bool overlong = (c.bytes == 3 && c.code < 0x800) || (c.bytes == 4 && c.code < 0x10000);
  const bool surrogate = c.code >= 0xD800 && c.code < 0xE000;
  return overlong || surrogate || c.code > 0x10FFFF ? Utf8Char{} : c;
}

void append_utf8(std::string& text, char32_t code) {
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    return put(code);
  }
  if (code < 0x800) {
    put(0xC0 | (code >> 6));
  } else if (code < 0x10000) {
    put(0xE0 | (code >> 12));
    put(0x80 | ((code >> 6) & 0x3F));
  } else {
    put(0xF0 | (code >> 18));
    put(0x80 | ((code >> 12) & 0x3F));
    put(0x80 | ((code >> 6) & 0x3F));
  }
  put(0x80 | (code & 0x3F));
}

std::optional<std::size_t> first_invalid_utf8(std::string_view text) {
  for (std::size_t at = ascii_run(text, 0); at < text.size(); at = ascii_run(text, at)) {
    const Utf8Char c = utf8_at(text, at);
    if (c.bytes == 0) {
      return at;
    }
    at += c.bytes;
  }
  return std::nullopt;
}

void require_utf8(std::string_view text, std::string_view who) {
  if (const auto at = first_invalid_utf8(text)) {
    throw Error(
        Errc::data,
        fmt::format("{}: text must be UTF-8, but byte 0x{:02X} at offset {} is not; convert "
                    "the text or remove it",
                    who,
                    static_cast<unsigned char>(text[*at]),
                    *at));
  }
}

}  // namespace strata::data
