#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "offload/nvme_store.h"

namespace strata::offload {

/// CRC-32C of the blocks of one slot, as they were given to be written. Different blocks may be
/// used by different threads.
class BlockChecks {
 public:
  BlockChecks(Verify verify, std::int64_t size_bytes, std::int64_t block_bytes, int extent);
  /// `begin`: offset in the slot of these bytes, which are whole blocks or reach its end.
  void note(std::int64_t begin, std::span<const std::byte> bytes);
  /// Whether they are what was noted, as far as it was.
  bool agree(std::int64_t begin, std::span<const std::byte> bytes) const;

 private:
  struct Check {
    std::uint32_t crc = 0;
    bool known = false;
  };
  bool checked(std::size_t block) const;
  Verify verify_;
  std::size_t block_bytes_;
  std::size_t first_;  // of the sample
  std::vector<Check> checks_;
};

}  // namespace strata::offload
