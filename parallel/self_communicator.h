#pragma once
#include "core/communicator.h"

namespace strata::parallel {

/// The only rank there is: gathers are what is already there, sums are over its own parts. Sending
/// to oneself or to somebody else throws Errc::comm.
class SelfCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce(std::span<const Tensor> parts, const SumOrder& order) override;
  void reduce_scatter(std::span<const Tensor> parts,
                      const SumOrder& order,
                      std::span<const Share> shares) override;
  void all_gather(std::span<std::byte> bytes, std::span<const Share> shares) override;
  void broadcast(std::span<std::byte> bytes, int root) override;
  void gather_all(std::span<std::byte> out, std::span<const std::byte> mine) override;
  void send(std::span<const std::byte> bytes, int to, int tag) override;
  void recv(std::span<std::byte> bytes, int from, int tag) override;
  void barrier() override {}
  [[noreturn]] void abort(int exit_code) noexcept override;
};

}  // namespace strata::parallel
