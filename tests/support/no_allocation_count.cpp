#include "tests/support/allocation_count.h"

namespace strata::tests {

bool counts_allocations() {
  return false;
}
void start_counting_allocations() {}
AllocationCount stop_counting_allocations() {
  return {};
}

}  // namespace strata::tests
