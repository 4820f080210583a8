#include "core/io/queue.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/io/transfers.h"

namespace strata::io {
namespace {

constexpr int kMaxDepth = 4096;
constexpr std::int64_t kMaxBlock = std::int64_t{1}
                                   << 30;  // the kernel counts a transfer in 31 bits

void validate(const QueueConfig& config) {
  if (config.depth < 1 || config.depth > kMaxDepth) {
    throw Error(Errc::config,
                fmt::format("io: queue depth must be 1 to {}, got {}", kMaxDepth, config.depth));
  }
  if (config.block_bytes < 1 || config.block_bytes > kMaxBlock) {
    throw Error(
        Errc::config,
        fmt::format("io: block_bytes must be 1 to {}, got {}", kMaxBlock, config.block_bytes));
  }
}

}  // namespace

std::unique_ptr<Queue> make_queue(QueueConfig config) {
  validate(config);
  using Engine = QueueConfig::Engine;
  if (config.engine == Engine::uring) {
    return make_uring_queue(std::move(config));
  }
  if (config.engine == Engine::automatic && uring_available()) {
    try {
      return make_uring_queue(config);
    } catch (const Error&) {
      // Granted in principle, but not at this depth (memory-lock limits): threads do the same.
    }
  }
  return make_thread_queue(std::move(config));
}

}  // namespace strata::io
