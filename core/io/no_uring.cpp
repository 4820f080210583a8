#include "core/error.h"
#include "core/io/transfers.h"

namespace strata::io {

bool uring_available() {
  return false;
}

std::unique_ptr<Queue> make_uring_queue(QueueConfig) {
  throw Error(Errc::config,
              "io: this build has no io_uring; install liburing-dev and build again, or set the "
              "engine to threads");
}

}  // namespace strata::io
