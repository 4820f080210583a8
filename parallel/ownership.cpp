#include "parallel/ownership.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace strata::parallel {
namespace {

/// State in bytes, with elements, that is work, as what decides between equals or where there is no
/// state at all.
std::int64_t weight_of(const Cuttable& tensor) {
  constexpr std::int64_t kElementsOfAByte = 64;
  return kElementsOfAByte * tensor.state_bytes + tensor.numel;
}

/// x * a / b, rounded to nearest, without overflow.
std::int64_t scaled(std::int64_t x, std::int64_t a, std::int64_t b) {
  __extension__ using Wide = __int128;
  const Wide product = static_cast<Wide>(x) * a, half = b / 2;
  return static_cast<std::int64_t>((product + (product < 0 ? -half : half)) / b);
}

/// What every rank would have to get so that all stand as level as `amount` allows.
std::vector<std::int64_t> level(std::span<const std::int64_t> loads, std::int64_t amount) {
  std::vector<std::size_t> by_load(loads.size());
  std::iota(by_load.begin(), by_load.end(), std::size_t{0});
  std::stable_sort(by_load.begin(), by_load.end(), [&](std::size_t a, std::size_t b) {
    return loads[a] < loads[b];
  });
  std::size_t filled = 0;  // so many of the lowest stand at one height
  std::int64_t sum = 0;    // of their loads
  while (filled < by_load.size()) {
    const std::int64_t next = loads[by_load[filled]];
    if (next * static_cast<std::int64_t>(filled) - sum >= amount) {
      break;
    }
    sum += next;
    ++filled;
  }
  std::vector<std::int64_t> gets(loads.size(), 0);
  std::int64_t left = amount;
  for (std::size_t k = 0; k < filled; ++k) {
    const auto others = static_cast<std::int64_t>(filled - k);
    const std::int64_t height = (sum + left) / others;  // of those still to be served
    const std::int64_t mine = std::clamp<std::int64_t>(height - loads[by_load[k]], 0, left);
    gets[by_load[k]] = mine;
    sum -= loads[by_load[k]];
    left -= mine;
  }
  gets[by_load[filled - 1]] += left;
  return gets;
}

bool whole(const Cuttable& tensor) {
  return tensor.cut >= tensor.numel;
}

class Cutter {
 public:
  explicit Cutter(int world) : loads_(static_cast<std::size_t>(world), 0) {}

  void give_whole(const Cuttable& tensor) {
    if (tensor.numel == 0) {
      return;
    }
    const auto least = std::min_element(loads_.begin(), loads_.end());
    *least += weight_of(tensor);
    shards_.push_back({tensor.tensor, 0, tensor.numel, static_cast<int>(least - loads_.begin())});
  }

  /// The divisible tensors of one block, one after the other, as if they were one row.
  void fill(std::span<const Cuttable> tensors) {
    std::int64_t amount = 0;
    for (const Cuttable& t : tensors) {
      amount += whole(t) ? 0 : weight_of(t);
    }
    if (amount == 0) {
      return;
    }
    std::vector<std::int64_t> due = level(loads_, amount);
    std::size_t rank = 0;
    for (const Cuttable& t : tensors) {
      const std::int64_t weight = weight_of(t);
      for (std::int64_t at = 0; !whole(t) && at < t.numel;) {
        while (rank + 1 < due.size() && due[rank] <= 0) {
          ++rank;
        }
        // The nearest allowed cut; what that is too much or too little is the next one's.
        const std::int64_t wished = at + scaled(due[rank], t.numel, weight);
        std::int64_t end = std::min(t.numel, (wished + t.cut / 2) / t.cut * t.cut);
        if (rank + 1 == due.size()) {
          end = t.numel;
        }
        if (end > at) {
          shards_.push_back({t.tensor, at, end, static_cast<int>(rank)});
          loads_[rank] += scaled(end - at, weight, t.numel);
        }
        const std::int64_t taken = scaled(std::max(end, at) - at, weight, t.numel);
        if (end < t.numel && rank + 1 < due.size()) {
          due[rank + 1] += due[rank] - taken;
          due[rank] = 0;
        } else {
          due[rank] -= taken;
        }
        at = std::max(end, at);
      }
    }
  }

  std::vector<ShardSpec> finish() { return std::move(shards_); }

 private:
  std::vector<std::int64_t> loads_;  // by rank
  std::vector<ShardSpec> shards_;
};

}  // namespace

std::vector<ShardSpec> partition(std::span<const std::vector<Cuttable>> blocks, int world) {
  Cutter cutter(world);
  std::vector<Cuttable> wholes;
  for (const auto& block : blocks) {
    std::copy_if(block.begin(), block.end(), std::back_inserter(wholes), whole);
  }
  std::stable_sort(wholes.begin(), wholes.end(), [](const Cuttable& a, const Cuttable& b) {
    return weight_of(a) > weight_of(b);
  });
  for (const Cuttable& tensor : wholes) {
    cutter.give_whole(tensor);
  }
  for (const auto& block : blocks) {
    cutter.fill(block);
  }
  return cutter.finish();
}

BlockShares block_shares(const BlockSpec& spec,
                         std::span<const ShardSpec> shards,
                         const PackLayout& grads,
                         const PackLayout& weights,
                         DType weight_dtype) {
  BlockShares shares;
  for (std::size_t p = 0; p < spec.params.size(); ++p) {
    const std::int64_t grad = grads.offset[p] / size_bytes(DType::f32), weight = weights.offset[p];
    std::vector<Share> of_param;
    for (const ShardSpec& shard : shards) {
      if (shard.tensor == spec.params[p].info.id && shard.begin < shard.end) {
        of_param.push_back({shard.begin, shard.end, shard.owner});
      }
    }
    std::sort(of_param.begin(), of_param.end(), [](const Share& a, const Share& b) {
      return a.begin < b.begin;
    });
    for (const Share& s : of_param) {
      shares.grads.push_back({grad + s.begin, grad + s.end, s.owner});
      shares.weights.push_back({weight + s.begin * size_bytes(weight_dtype),
                                weight + s.end * size_bytes(weight_dtype),
                                s.owner});
    }
  }
  return shares;
}

}  // namespace strata::parallel
