#include "core/parallel_for.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <string>
#include <thread>

#include <sched.h>

#include "core/cpu/team.h"
#include "core/error.h"

namespace strata {

namespace {

// More chunks than threads, so that a thread that lost its core for a while does not hold up the
// rest.
constexpr std::int64_t kChunksPerThread = 4;

int affinity_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    return std::max(1, CPU_COUNT(&set));
  }
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

/// OMP_NUM_THREADS may be a list by nesting level; only its first number is ours.
int default_thread_count() {
  if (const char* text = std::getenv("OMP_NUM_THREADS"); text != nullptr) {
    int count = 0;
    if (std::from_chars(text, text + std::strlen(text), count).ec == std::errc{} && count > 0) {
      return count;
    }
  }
  return affinity_cores();
}

std::atomic<int>& count_setting() {
  static std::atomic<int> count{default_thread_count()};
  return count;
}

struct Loop {
  std::int64_t n, step;
  const void* context;
  ChunkFn body;
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> failed{false};
  std::once_flag first;
  std::exception_ptr error;

  void take_chunks() noexcept {
    for (;;) {
      const std::int64_t begin = next.fetch_add(step, std::memory_order_relaxed);
      if (begin >= n || failed.load(std::memory_order_relaxed)) {
        return;
      }
      try {
        body(context, begin, std::min(begin + step, n));
      } catch (...) {
        std::call_once(first, [&] { error = std::current_exception(); });
        failed.store(true, std::memory_order_relaxed);
      }
    }
  }
};

}  // namespace

int thread_count() {
  return count_setting().load(std::memory_order_relaxed);
}

void set_thread_count(int count) {
  if (count < 1) {
    throw Error(Errc::config,
                "threads: at least 1 is needed, got " + std::to_string(count) +
                    "; leave it unset for one per core");
  }
  count_setting().store(count, std::memory_order_relaxed);
}

void parallel_for_erased(std::int64_t n, std::int64_t grain, const void* context, ChunkFn body) {
  STRATA_ASSERT(grain > 0);
  if (n <= 0) {
    return;
  }
  const std::int64_t grains = (n + grain - 1) / grain;
  const int members = thread_count();
  if (members == 1 || grains == 1) {
    return body(context, 0, n);
  }
  const std::int64_t chunks = std::min(grains, members * kChunksPerThread);
  const std::int64_t step = (grains + chunks - 1) / chunks * grain;
  Loop loop{.n = n, .step = step, .context = context, .body = body, .first = {}, .error = {}};
  // The whole team even where there are fewer chunks: libgomp ends the threads that a smaller team
  // leaves over and starts new ones for the next loop.
  cpu::run_team(
      members, [](void* l) { static_cast<Loop*>(l)->take_chunks(); }, &loop);
  if (loop.error) {
    std::rethrow_exception(loop.error);
  }
}

}  // namespace strata
