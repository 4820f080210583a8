#include "offload/nvme_checks.h"

#include <algorithm>

#include "core/io/file.h"

namespace strata::offload {
namespace {

constexpr std::size_t kSampleOf = 16;

}  // namespace

BlockChecks::BlockChecks(Verify verify,
                         std::int64_t size_bytes,
                         std::int64_t block_bytes,
                         int extent)
    : verify_(verify),
      block_bytes_(static_cast<std::size_t>(block_bytes)),
      first_(static_cast<std::size_t>(extent) % kSampleOf),
      checks_(verify == Verify::off
                  ? 0
                  : static_cast<std::size_t>((size_bytes + block_bytes - 1) / block_bytes)) {}

bool BlockChecks::checked(std::size_t block) const {
  return verify_ == Verify::all || (verify_ == Verify::sample && block % kSampleOf == first_);
}

void BlockChecks::note(std::int64_t begin, std::span<const std::byte> bytes) {
  std::size_t block = static_cast<std::size_t>(begin) / block_bytes_;
  for (std::size_t at = 0; at < bytes.size(); at += block_bytes_, ++block) {
    if (checked(block)) {
      const std::size_t size = std::min(block_bytes_, bytes.size() - at);
      checks_[block] = {io::crc32c(bytes.subspan(at, size)), true};
    }
  }
}

bool BlockChecks::agree(std::int64_t begin, std::span<const std::byte> bytes) const {
  std::size_t block = static_cast<std::size_t>(begin) / block_bytes_;
  for (std::size_t at = 0; at < bytes.size(); at += block_bytes_, ++block) {
    const std::size_t size = std::min(block_bytes_, bytes.size() - at);
    if (checked(block) && checks_[block].known &&
        checks_[block].crc != io::crc32c(bytes.subspan(at, size))) {
      return false;
    }
  }
  return true;
}

}  // namespace strata::offload
