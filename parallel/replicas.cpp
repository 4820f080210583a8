#include "parallel/replicas.h"

#include <string>
#include <vector>

#include <fmt/format.h>

#include "core/error.h"

namespace strata::parallel {

void require_equal_replicas(Communicator& ranks, std::uint64_t mine, std::int64_t step) {
  std::vector<std::uint64_t> all(static_cast<std::size_t>(ranks.size()));
  ranks.gather_all(std::as_writable_bytes(std::span(all)), std::as_bytes(std::span(&mine, 1)));
  std::string others;
  for (std::size_t r = 1; r < all.size(); ++r) {
    if (all[r] != all[0]) {
      others += (others.empty() ? "" : ", ") + std::to_string(r);
    }
  }
  if (!others.empty()) {
    throw Error(Errc::numerics,
                fmt::format("replicas: after step {} the weights of rank {} are not those of rank "
                            "0; suspect memory or a core of one of these machines (or libraries "
                            "that differ), and resume from a checkpoint without it",
                            step,
                            others));
  }
}

}  // namespace strata::parallel
