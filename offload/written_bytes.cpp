#include "offload/written_bytes.h"

#include <algorithm>

#include "offload/planner.h"

namespace strata::offload {

std::int64_t written_bytes(const Program& program, const PackSizes& sizes) {
  std::int64_t most = 0;
  for (const Outcome outcome : {Outcome::clip_is_one, Outcome::clip_below_one, Outcome::skip}) {
    std::int64_t bytes = 0;
    for (const Instruction& i : program.step) {
      const bool writes = is_move(i.op) && !i.clean && i.tier.kind == TierKind::nvme;
      bytes += writes && runs(i.when, outcome) ? sizes.at(i.key()) : 0;
    }
    most = std::max(most, bytes);
  }
  return most;
}

void require_writes(const Program& step, const PackSizes& sizes, std::int64_t most) {
  if (const std::int64_t bytes = written_bytes(step, sizes); bytes > most) {
    throw Infeasible({{TierKind::nvme, 0},
                      bytes,
                      most,
                      "so much goes to files where this placement has it",
                      Misfit::Of::writes});
  }
}

}  // namespace strata::offload
