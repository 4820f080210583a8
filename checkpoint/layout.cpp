#include "checkpoint/layout.h"

#include <fmt/format.h>

#include "checkpoint/directory.h"
#include "core/error.h"
#include "core/io/file.h"
#include "core/io/safetensors.h"

namespace strata::checkpoint {
namespace {

io::SafetensorsEntry describe(const StateEntry& entry) {
  if (entry.begin < 0 || entry.end < entry.begin || entry.numel < 0 || entry.offset < 0) {
    throw Error(
        Errc::internal,
        fmt::format(
            "checkpoint: entry '{}:{}' of elements [{}, {}) with {} values at byte {} of its "
            "pack is impossible",
            entry.state,
            entry.tensor,
            entry.begin,
            entry.end,
            entry.numel,
            entry.offset));
  }
  io::SafetensorsEntry described;
  described.name =
      fmt::format("{}:{}@{}+{}", entry.state, entry.tensor, entry.begin, entry.end - entry.begin);
  described.dtype = io::safetensors_dtype(entry.dtype);
  const bool whole =
      entry.begin == 0 && entry.end == entry.shape.numel() && entry.numel == entry.shape.numel();
  // A whole tensor keeps its shape, so that other readers of the format see it as it is.
  described.shape =
      whole ? std::vector(entry.shape.begin(), entry.shape.end()) : std::vector{entry.numel};
  return described;
}

DataFile make_file(const StateDict& dict, std::size_t first, std::size_t last, int writer, int k) {
  std::vector<io::SafetensorsEntry> entries;
  for (std::size_t i = first; i < last; ++i) {
    entries.push_back(describe(dict[i]));
  }
  DataFile file;
  file.header = io::safetensors_header(entries, {});
  file.first = first;
  file.last = last;
  const auto header_bytes = static_cast<std::int64_t>(file.header.size());
  file.record = {data_file_name(writer, k),
                 header_bytes + entries.back().end,
                 header_bytes,
                 io::crc32c(std::as_bytes(std::span(file.header))),
                 writer};
  return file;
}

}  // namespace

std::int64_t Layout::size_bytes() const {
  std::int64_t sum = 0;
  for (const DataFile& file : files) {
    sum += file.record.size_bytes;
  }
  return sum;
}

Layout make_layout(const StateDict& dict, std::int64_t file_bytes, int writer) {
  Layout layout;
  std::size_t first = 0;
  while (first < dict.size()) {
    std::size_t last = first;
    std::int64_t size = 0;
    while (last < dict.size() && (last == first || size + dict[last].size_bytes() <= file_bytes)) {
      size += dict[last++].size_bytes();
    }
    const int k = static_cast<int>(layout.files.size());
    layout.files.push_back(make_file(dict, first, last, writer, k));
    std::int64_t offset = layout.files.back().record.header_bytes;
    for (; first < last; ++first) {
      layout.places.push_back({k, offset});
      offset += dict[first].size_bytes();
    }
  }
  return layout;
}

}  // namespace strata::checkpoint
