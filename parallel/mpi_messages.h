#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include <mpi.h>

#include "parallel/boxes.h"
#include "parallel/watch.h"

namespace strata::parallel {

/// Throws comm with MPI's words when `code` is an error.
void check_mpi(int code, const char* call);

/// Messages on their way, in one direction or both. Each is cut at the limit.
class Messages {
 public:
  Messages(MPI_Comm communicator, std::int64_t limit_bytes, Watch& watch);
  // Start; the bytes stay alive and untouched until wait() has returned.
  void send(std::span<const std::byte> bytes, int to, int tag);
  void recv(std::span<std::byte> bytes, int from, int tag);
  /// Until all have arrived or are gone.
  void wait(const char* operation);
  /// Whether all have; does not wait.
  bool are_done();

 private:
  template <class Start>
  void start(std::int64_t bytes, int peer, const Start& start);
  void check_all(const char* operation, Watch::Clock::time_point since);
  MPI_Comm communicator_;
  const std::int64_t limit_bytes_;
  Watch& watch_;
  std::vector<MPI_Request> requests_;
  std::vector<int> peers_;  // of the requests
  std::vector<int> completed_, missing_;
};

/// Messages whose sender does not wait: the bytes are copied and sent whenever MPI is entered.
class BufferedSends {
 public:
  BufferedSends(MPI_Comm communicator, std::int64_t limit_bytes, Watch& watch)
      : communicator_(communicator), limit_bytes_(limit_bytes), watch_(watch) {}
  void send(std::span<const std::byte> bytes, int to, int tag);
  /// Moves them on; whether some are still there.
  bool poll();
  void wait(const char* operation);

 private:
  struct Sent {
    std::vector<std::byte> bytes;
    Messages messages;
    bool in_flight = false;
  };
  MPI_Comm communicator_;
  const std::int64_t limit_bytes_;
  Watch& watch_;
  std::deque<Sent> sent_;  // used again, so that a steady state allocates nothing
};

/// Boxes whose compartments travel as messages when the ranks meet.
class NetworkBoxes final : public Boxes {
 public:
  NetworkBoxes(int rank, int size, std::int64_t capacity_bytes, Messages messages);
  std::byte* common() override { return mine_.data(); }
  std::byte* for_rank(int other) override { return mine_.data() + personal_offset(rank(), other); }
  const std::byte* common_of(int other) override { return mirror(other); }
  const std::byte* from_rank(int other) override { return mirror(other) + common_bytes_; }
  void meet(const char* operation, const Traffic& traffic) override;

 private:
  /// What has come from another rank: its common compartment and the one for this rank.
  std::byte* mirror(int other) {
    return mirrors_.data() + other * (common_bytes_ + personal_bytes_);
  }
  std::vector<std::byte> mine_, mirrors_;
  Messages messages_;
};

}  // namespace strata::parallel
