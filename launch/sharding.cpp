#include "launch/sharding.h"

#include <algorithm>
#include <iterator>

#include "optim/cuts.h"
#include "optim/optimizer.h"
#include "optim/weight_update.h"

namespace strata::launch {

std::vector<ShardSpec> make_shards(const optim::Optimizer& method,
                                   std::span<const BlockSpec> specs,
                                   WeightFormat format,
                                   DType working,
                                   int world) {
  using Group = std::vector<parallel::Cuttable>;
  const std::vector<std::vector<Turn>> turns = method.turns(specs, 0, 0);
  std::vector<Group> blocks, turning;
  for (std::size_t b = 0; b < specs.size(); ++b) {
    Group& lasting = blocks.emplace_back();
    Group together;
    for (std::size_t p = 0; p < specs[b].params.size(); ++p) {
      const ParamInfo& param = specs[b].params[p].info;
      const parallel::Cuttable tensor{param.id,
                                      param.shape.numel(),
                                      optim::cut_unit(method, param),
                                      optim::state_bytes(method, param, format, working)};
      if (turns[b][p] == Turn::always) {
        lasting.push_back(tensor);
      } else if (method.freezes()) {
        together.push_back(tensor);
      } else {
        turning.push_back({tensor});
      }
    }
    turning.push_back(std::move(together));
  }
  std::vector<ShardSpec> shards = parallel::partition(blocks, world);
  for (const Group& group : turning) {  // each level by itself: the others have no state then
    std::ranges::move(parallel::partition({&group, 1}, world), std::back_inserter(shards));
  }
  return shards;
}

parallel::Together make_together(std::span<const BlockSpec> specs,
                                 const optim::OptimizerUpdater& updater,
                                 std::span<const ShardSpec> shards,
                                 DType weight_dtype) {
  parallel::Together together;
  for (std::size_t b = 0; b < specs.size(); ++b) {
    const int block = static_cast<int>(b);
    std::vector<std::int64_t> bytes;
    for (const BorrowedParam& p : specs[b].borrows) {
      bytes.push_back(p.shape.numel() * size_bytes(DType::f32));
    }
    const PackLayout layout = pack_layout(bytes);
    for (std::size_t k = 0; k < specs[b].borrows.size(); ++k) {
      const BorrowedParam& p = specs[b].borrows[k];
      together.borrowed.push_back(
          {.borrower = block,
           .owner = p.block,
           .owner_offset = updater.block(p.block).grads.offset[static_cast<std::size_t>(p.param)],
           .borrower_offset = layout.offset[k],
           .numel = p.shape.numel()});
    }
    if (!shards.empty()) {
      const optim::BlockState& state = updater.block(block);
      together.shares.push_back(
          parallel::block_shares(specs[b], shards, state.grads, state.weights, weight_dtype));
    }
  }
  return together;
}

StateDict own_share(const StateDict& all, std::span<const BlockSpec> specs, RankPlace place) {
  std::map<std::string, TensorId> ids;
  std::vector<std::vector<parallel::Cuttable>> blocks;
  for (const BlockSpec& spec : specs) {
    auto& block = blocks.emplace_back();
    for (const ParamSpec& param : spec.params) {
      const std::int64_t numel = param.info.shape.numel();
      ids[param.info.name] = param.info.id;
      block.push_back({param.info.id, numel, numel});
    }
  }
  std::map<TensorId, int> writer;
  for (const ShardSpec& shard : parallel::partition(blocks, place.world)) {
    writer[shard.tensor] = shard.owner;
  }
  StateDict own;
  for (const StateEntry& entry : all) {
    if (writer[ids.at(entry.tensor)] == place.rank) {
      own.push_back(entry);
    }
  }
  return own;
}

}  // namespace strata::launch
