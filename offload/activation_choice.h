#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace strata::offload {

/// How backward of a decoder block comes by the activations it reads.
enum class Recompute : std::uint8_t {
  none,         // all are saved by forward
  elementwise,  // norms and activation products are made again from what is saved
  mlp,          // and the projections of the MLP, from the stream behind attention
  projections,  // and those of queries, keys and values: attention's results and sums are kept
  block,        // only the block's input is kept, its forward runs again
};
std::string_view to_string(Recompute recompute);

/// One for each decoder block, in order. Canonical text: one word when all are equal, else ranges
/// of the blocks that are not `none`: "0-5:block,6:elementwise".
using RecomputeChoice = std::vector<Recompute>;
std::string to_string(std::span<const Recompute> choice);

/// What a choice comes to.
struct RecomputePlan {
  std::int64_t reserved_bytes = 0;
  double extra_flops = 0;  // of a step
};
using PlanRecompute = std::function<RecomputePlan(const RecomputeChoice&)>;

/// The choice with the least extra work whose reserved bytes are within the budget; absent when
/// none is. A pure function of what `plan` says, which is asked about 2 log2(blocks) times. Blocks
/// are taken to be equal, and to need no more bytes when one is changed from none to elementwise to
/// block. The first blocks redo the most: their activations wait longest, and the memory in which a
/// block is recomputed is by then free of those of the blocks behind it.
std::optional<RecomputeChoice> choose_recompute(int blocks,
                                                std::int64_t budget_bytes,
                                                const PlanRecompute& plan);

/// The same where blocks are recomputed as wholes or not at all.
std::optional<RecomputeChoice> choose_recomputed_blocks(int blocks,
                                                        std::int64_t budget_bytes,
                                                        const PlanRecompute& plan);

}  // namespace strata::offload
