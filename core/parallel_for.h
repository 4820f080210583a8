#pragma once
#include <cstdint>
#include <type_traits>

namespace strata {

/// Threads of the one team. Set before first use; default OMP_NUM_THREADS or the cores of the
/// affinity mask.
int thread_count();
void set_thread_count(int count);

/// Type-erased chunk body, so that only parallel_for.cpp knows about OpenMP.
using ChunkFn = void (*)(const void* context, std::int64_t begin, std::int64_t end);
void parallel_for_erased(std::int64_t n, std::int64_t grain, const void* context, ChunkFn body);

/// Calls body(begin, end) over disjoint chunks that cover [0, n). Chunk borders are multiples of
/// `grain` and chunks may run in any order on any thread, so a result must not depend on where they
/// fall. Compute thread only; not reentrant. The first exception of a chunk is rethrown.
template <class Body>
void parallel_for(std::int64_t n, std::int64_t grain, const Body& body) {
  parallel_for_erased(n, grain, &body, [](const void* context, std::int64_t b, std::int64_t e) {
    (*static_cast<const Body*>(context))(b, e);
  });
}

}  // namespace strata
