#include "parallel/self_communicator.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "core/error.h"

namespace strata::parallel {

namespace {

void require_whole(const Tensor& x, std::span<const std::int64_t> ends) {
  STRATA_ASSERT(ends.size() == 1 && ends[0] == x.numel());
}

[[noreturn]] void no_peer(const char* what, int peer, int tag) {
  throw Error(Errc::comm,
              std::string(what) + ": rank " + std::to_string(peer) + " (tag " +
                  std::to_string(tag) +
                  ") is needed, but this run has one rank; start it with "
                  "mpirun");
}

}  // namespace

void SelfCommunicator::all_reduce(Tensor&) {}

void SelfCommunicator::reduce_scatter(Tensor& x, std::span<const std::int64_t> ends) {
  require_whole(x, ends);
}

void SelfCommunicator::all_gather(Tensor& x, std::span<const std::int64_t> ends) {
  require_whole(x, ends);
}

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
