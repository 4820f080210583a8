#pragma once
#include <functional>

#include "core/communicator.h"

namespace strata::tests {

/// Ranks as threads of this process, for tests of what several ranks do together.
class LocalRanks {
 public:
  explicit LocalRanks(int size) : size_(size) {}
  /// Runs body(communicator) once per rank and returns when all are done. A rank that throws or
  /// returns early is lost to its peers: they get Errc::comm where they would wait for it forever.
  /// Rethrows the first exception.
  void run(const std::function<void(Communicator&)>& body) const;

 private:
  int size_;
};

}  // namespace strata::tests
