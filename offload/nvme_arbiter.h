#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>

#include "core/handle.h"
#include "core/io/file.h"
#include "core/memory.h"

namespace strata::offload {

/// The time of one path, dealt out to the processes of this machine in the order in which they ask:
/// a few bytes of shared memory in `swap.pace` of its directory, gone with the last process that
/// has it. A process that dies loses the piece it was given, and nobody waits for it.
class NvmeArbiter {
 public:
  using Clock = std::chrono::steady_clock;
  explicit NvmeArbiter(const std::filesystem::path& directory);
  ~NvmeArbiter();
  NvmeArbiter(const NvmeArbiter&) = delete;
  NvmeArbiter& operator=(const NvmeArbiter&) = delete;

  /// The end of the next free time that long. `direction`: 0 or 1, each with time of its own.
  Clock::time_point reserve(std::size_t direction, Clock::duration duration);

 private:
  struct Shared;
  bool join();
  bool is_named() const;
  Shared* shared() const;
  std::filesystem::path path_;
  io::Fd fd_;
  Handle<MappingTraits> mapping_;
};

}  // namespace strata::offload
