#pragma once
#include "core/communicator.h"

namespace strata::parallel {

/// The only rank there is: sums and gathers are what is already there. Sending to oneself or to
/// somebody else throws Errc::comm.
class SelfCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce(Tensor& x) override;
  void reduce_scatter(Tensor& x, std::span<const std::int64_t> ends) override;
  void all_gather(Tensor& x, std::span<const std::int64_t> ends) override;
  void broadcast(std::span<std::byte> bytes, int root) override;
  void gather_all(std::span<std::byte> out, std::span<const std::byte> mine) override;
  void send(std::span<const std::byte> bytes, int to, int tag) override;
  void recv(std::span<std::byte> bytes, int from, int tag) override;
  void barrier() override {}
  [[noreturn]] void abort(int exit_code) noexcept override;
};

}  // namespace strata::parallel
