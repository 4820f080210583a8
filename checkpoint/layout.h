#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "core/state_dict.h"

namespace strata::checkpoint {

/// The data files that one rank writes, known before the first byte: header, entries and their
/// places.
struct DataFile {
  FileRecord record;
  std::string header;
  std::size_t first = 0, last = 0;  // entries of the dict
};
struct Layout {
  std::vector<DataFile> files;
  struct Place {
    int file = 0;
    std::int64_t offset = 0;  // from the start of the file
  };
  std::vector<Place> places;  // one per entry of the dict
  std::int64_t size_bytes() const;
};

/// Entries back to back in the order of the dict. A file is closed before the entry that would
/// carry it past `file_bytes`; an entry is never cut, so one that is larger has a larger file.
/// Key of an entry: "state:tensor@begin+extent", the flat range of the tensor that it covers.
/// Throws internal when an entry is impossible.
Layout make_layout(const StateDict& dict, std::int64_t file_bytes, int writer);

}  // namespace strata::checkpoint
