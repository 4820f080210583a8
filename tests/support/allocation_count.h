#pragma once
#include <cstdint>

namespace strata::tests {

/// Heap allocations by who asked for them.
struct AllocationCount {
  std::int64_t ours = 0;
  std::int64_t ours_largest_bytes = 0;          // of one of these
  std::int64_t library = 0, library_bytes = 0;  // called from libdnnl or libgomp
  std::int64_t library_largest_bytes = 0;       // of one of these
};

/// Whether this executable can count: it replaces malloc, which a sanitizer has to itself.
bool counts_allocations();

/// Counts the allocations of all threads from here on, from zero. To see who allocates, break on
/// strata::tests::count_ours.
void start_counting_allocations();
AllocationCount stop_counting_allocations();

}  // namespace strata::tests
