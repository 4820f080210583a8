#include "parallel/self_communicator.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/error.h"
#include "parallel/fold.h"

namespace strata::parallel {

namespace {

void sum(std::span<const Tensor> parts, const SumOrder& order) {
  std::vector<const float*> contributions;
  for (const Tensor& part : parts) {
    contributions.push_back(part.data<float>());
  }
  if (order.contributions() > 1) {
    fold(parts[0].data<float>(), contributions, order, parts[0].numel());
  }
}

[[noreturn]] void no_peer(const char* what, int peer, int tag) {
  throw Error(Errc::comm,
              std::string(what) + ": rank " + std::to_string(peer) + " (tag " +
                  std::to_string(tag) +
                  ") is needed, but this run has one rank; start it with "
                  "mpirun");
}

}  // namespace

void SelfCommunicator::all_reduce(std::span<const Tensor> parts, const SumOrder& order) {
  sum(parts, order);
}

void SelfCommunicator::reduce_scatter(std::span<const Tensor> parts,
                                      const SumOrder& order,
                                      std::span<const Share>) {
  sum(parts, order);
}

void SelfCommunicator::all_gather(std::span<std::byte>, std::span<const Share>) {}

void SelfCommunicator::broadcast(std::span<std::byte>, int root) {
  STRATA_ASSERT(root == 0);
}

void SelfCommunicator::gather_all(std::span<std::byte> out, std::span<const std::byte> mine) {
  STRATA_ASSERT(out.size() == mine.size());
  std::copy(mine.begin(), mine.end(), out.begin());
}

void SelfCommunicator::send(std::span<const std::byte>, int to, int tag) {
  no_peer("send", to, tag);
}

void SelfCommunicator::recv(std::span<std::byte>, int from, int tag) {
  no_peer("recv", from, tag);
}

void SelfCommunicator::abort(int exit_code) noexcept {
  std::_Exit(exit_code);
}

}  // namespace strata::parallel
