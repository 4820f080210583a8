#include "core/io/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "core/io/safetensors_header.h"

namespace strata::io {
namespace {

constexpr std::int64_t kMaxHeaderBytes = 100'000'000;
constexpr std::int64_t kPrefixBytes = 8;

struct DTypeBits {
  std::string_view name;
  std::int64_t bits;
};
// Everything the format knows, so that a size can be checked even where we hold no such DType.
constexpr DTypeBits kDTypes[] = {{"BOOL", 8},    {"U8", 8},      {"I8", 8},      {"F8_E5M2", 8},
                                 {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F4", 4},      {"I16", 16},
                                 {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},
                                 {"U32", 32},    {"F32", 32},    {"F64", 64},    {"I64", 64},
                                 {"U64", 64},    {"C64", 64},    {"F6_E2M3", 6}, {"F6_E3M2", 6}};

std::optional<std::int64_t> bits_of(std::string_view dtype) {
  for (const DTypeBits& known : kDTypes) {
    if (known.name == dtype) {
      return known.bits;
    }
  }
  return std::nullopt;
}

/// Bits of a tensor, or nothing when the product leaves 63 bits.
std::optional<std::int64_t> total_bits(const SafetensorsEntry& entry, std::int64_t bits) {
  std::int64_t product = bits;
  for (const std::int64_t extent : entry.shape) {
    if (__builtin_mul_overflow(product, extent, &product)) {
      return std::nullopt;
    }
  }
  return product;
}

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& what) {
  throw Error(Errc::format, fmt::format("safetensors: '{}': {}", path.string(), what));
}

void check_size(const std::filesystem::path& path, const SafetensorsEntry& entry) {
  if (entry.begin > entry.end) {
    fail(path,
         fmt::format(
             "tensor '{}' ends at {} before it begins at {}", entry.name, entry.end, entry.begin));
  }
  const std::optional<std::int64_t> known = bits_of(entry.dtype);
  const std::optional<std::int64_t> bits = total_bits(entry, known.value_or(1));
  if (!bits) {
    fail(path, fmt::format("the shape of tensor '{}' overflows 63 bits", entry.name));
  }
  if (known && (*bits % 8 != 0 || *bits / 8 != entry.end - entry.begin)) {
    fail(path,
         fmt::format(
             "tensor '{}' of dtype {} needs {} bits for its shape, its offsets hold {} bytes",
             entry.name,
             entry.dtype,
             *bits,
             entry.end - entry.begin));
  }
}

/// Entries by offset must tile the data section.
void check_cover(const std::filesystem::path& path,
                 const std::vector<SafetensorsEntry>& entries,
                 std::int64_t data_bytes) {
  std::int64_t expected = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.begin != expected) {
      fail(path,
           fmt::format("tensor '{}' begins at byte {} of the data, {} byte {}",
                       entry.name,
                       entry.begin,
                       entry.begin < expected ? "overlapping what ends at" : "leaving a hole from",
                       expected));
    }
    expected = entry.end;
    if (expected > data_bytes) {
      fail(path,
           fmt::format(
               "tensor '{}' ends at byte {} of the data, but the file holds {}: it is truncated "
               "or its header is wrong",
               entry.name,
               expected,
               data_bytes));
    }
  }
  if (expected != data_bytes) {
    fail(path,
         fmt::format("{} bytes follow the last tensor, which ends at byte {} of the data",
                     data_bytes - expected,
                     expected));
  }
}

std::string read_header(const std::filesystem::path& path, const Fd& fd, std::int64_t size) {
  if (size < kPrefixBytes) {
    fail(path, fmt::format("the file has {} bytes, too few for a header length", size));
  }
  std::uint64_t length = 0;
  read_exact(fd, path, 0, std::as_writable_bytes(std::span(&length, 1)));
  if (length > static_cast<std::uint64_t>(kMaxHeaderBytes)) {
    fail(path, fmt::format("header of {} bytes, at most {} are allowed", length, kMaxHeaderBytes));
  }
  if (static_cast<std::int64_t>(length) > size - kPrefixBytes) {
    fail(path,
         fmt::format("header of {} bytes in a file of {}: it is truncated or no safetensors file",
                     length,
                     size));
  }
  std::string header(length, '\0');
  read_exact(fd, path, kPrefixBytes, std::as_writable_bytes(std::span(header)));
  return header;
}

}  // namespace

std::string_view safetensors_dtype(DType dtype) {
  constexpr std::string_view names[] = {"F32", "F64", "BF16", "I8", "U8", "I16", "I32", "I64"};
  return names[static_cast<std::size_t>(dtype)];
}

DType dtype_from_safetensors(std::string_view name, const std::filesystem::path& path) {
  for (const DType dtype : {DType::f32,
                            DType::f64,
                            DType::bf16,
                            DType::i8,
                            DType::u8,
                            DType::i16,
                            DType::i32,
                            DType::i64}) {
    if (safetensors_dtype(dtype) == name) {
      return dtype;
    }
  }
  fail(path,
       fmt::format(
           "dtype '{}' is not supported: F32, F64, BF16, I8, U8, I16, I32 and I64 are; convert the "
           "file first",
           name));
}

SafetensorsReader::SafetensorsReader(const std::filesystem::path& path) : path_(path) {
  static_assert(std::endian::native == std::endian::little);
  std::error_code unreadable;  // then opening it says why
  if (exists(path, unreadable) && !is_regular_file(path, unreadable)) {
    fail(path, "this is no regular file; name a safetensors file");
  }
  fd_ = open_file(path, Open::read);
  try {
    read_entries();
  } catch (const Error& error) {
    throw Error(error.code(),
                fmt::format("{}; the file is damaged or incomplete: get it again", error.what()));
  }
}

void SafetensorsReader::read_entries() {
  const std::int64_t size = file_size(fd_, path_);
  const std::string header = read_header(path_, fd_, size);
  data_offset_ = kPrefixBytes + static_cast<std::int64_t>(header.size());
  SafetensorsHeader parsed = parse_safetensors_header(header, path_);
  entries_ = std::move(parsed.entries);
  metadata_ = std::move(parsed.metadata);
  for (const SafetensorsEntry& entry : entries_) {
    check_size(path_, entry);
  }
  std::stable_sort(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  check_cover(path_, entries_, size - data_offset_);
}

const SafetensorsEntry* SafetensorsReader::find(std::string_view name) const {
  const auto found = std::find_if(
      entries_.begin(), entries_.end(), [&](const auto& entry) { return entry.name == name; });
  return found == entries_.end() ? nullptr : &*found;
}

void SafetensorsReader::read(const SafetensorsEntry& entry,
                             std::int64_t offset,
                             std::span<std::byte> to) const {
  const std::int64_t size = entry.end - entry.begin;
  STRATA_ASSERT(offset >= 0 && offset <= size &&
                static_cast<std::int64_t>(to.size()) <= size - offset);
  read_exact(fd_, path_, data_offset_ + entry.begin + offset, to);
}

std::string safetensors_header(std::vector<SafetensorsEntry>& entries,
                               const std::map<std::string, std::string>& metadata,
                               std::int64_t alignment) {
  STRATA_ASSERT(alignment > 0);
  std::set<std::string_view> names;
  std::int64_t offset = 0;
  for (SafetensorsEntry& entry : entries) {
    const std::optional<std::int64_t> bits = total_bits(entry, bits_of(entry.dtype).value_or(0));
    if (!names.insert(entry.name).second || entry.name == "__metadata__" || !bits_of(entry.dtype) ||
        !bits || *bits % 8 != 0) {
      throw Error(
          Errc::internal,
          fmt::format("safetensors: tensor '{}' of dtype '{}' cannot be written: its name must be "
                      "unique, its dtype known and its size whole bytes",
                      entry.name,
                      entry.dtype));
    }
    entry.begin = offset;
    entry.end = offset += *bits / 8;
  }
  std::string json = safetensors_json(entries, metadata);
  const std::int64_t used = kPrefixBytes + static_cast<std::int64_t>(json.size());
  json.append(static_cast<std::size_t>((alignment - used % alignment) % alignment), ' ');
  if (static_cast<std::int64_t>(json.size()) > kMaxHeaderBytes) {
    throw Error(
        Errc::format,
        fmt::format("safetensors: a header of {} bytes is over the format's limit of {}: spread "
                    "the tensors over more files",
                    json.size(),
                    kMaxHeaderBytes));
  }
  const auto prefix = std::bit_cast<std::array<char, kPrefixBytes>>(std::uint64_t{json.size()});
  return std::string(prefix.data(), prefix.size()) + json;
}

}  // namespace strata::io
