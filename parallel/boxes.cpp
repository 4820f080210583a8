#include "parallel/boxes.h"

#include "core/error.h"

namespace strata::parallel {

void Boxes::divide(std::int64_t common_bytes, std::int64_t personal_bytes) {
  STRATA_ASSERT(common_bytes + (size_ - 1) * personal_bytes <= capacity_bytes_);
  STRATA_ASSERT(size_ == 1 || size_ * (common_bytes + personal_bytes) <= 2 * capacity_bytes_);
  common_bytes_ = common_bytes;
  personal_bytes_ = personal_bytes;
}

}  // namespace strata::parallel
