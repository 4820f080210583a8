#include "launch/sharding.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/for_each.h"
#include "launch/assemble.h"
#include "models/config.h"
#include "models/model.h"
#include "optim/cuts.h"
#include "optim/optimizer.h"
#include "optim/weight_update.h"

namespace strata::launch {
namespace {

constexpr int kMostRanks = 4;
constexpr double kLevel = 1.02;  // the fullest rank, relative to the mean

struct Case {
  std::string method;
  WeightFormat format;
  DType working;
  bool divides = true;
  std::string preset = "gpt2-124m";
  std::string name() const {
    return method + "_" + std::string(to_string(format)) + "_" + std::string(to_string(working)) +
           (divides ? "" : "_1_block") + (preset == "gpt2-124m" ? "" : "_llama_1b");
  }
  /// One model has one decoder block.
  std::vector<optim::Setting> settings() const {
    return method == "lisa" ? std::vector<optim::Setting>{{"blocks", "1"}}
                            : std::vector<optim::Setting>{};
  }
  friend std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name(); }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string& method : optim::optimizer_names()) {
    all.push_back({method, WeightFormat::f32, DType::f32});
    all.push_back({method, WeightFormat::f32, DType::f32, false});
    all.push_back({method, WeightFormat::bf16_master, DType::bf16});
  }
  for (const char* method : {"adamw",
                             "adamw8bit",
                             "coat_adamw",
                             "muon",
                             "galore",
                             "apollo",
                             "frugal",
                             "microadam",
                             "badam"}) {
    all.push_back({method, WeightFormat::f32, DType::f32, true, "llama-1b"});
  }
  all.push_back({"adamw8bit", WeightFormat::bf16_stochastic, DType::bf16});
  all.push_back({"galore", WeightFormat::bf16_stochastic, DType::bf16});
  all.push_back({"adamw", WeightFormat::bf16_kahan, DType::bf16});
  all.push_back({"adamw8bit", WeightFormat::int8, DType::f32});
  all.push_back({"galore8bit", WeightFormat::int8, DType::bf16});
  return all;
}

/// GPT-2 124M, whose 12 blocks of matrices are level over 2, 3 and 4 ranks by themselves, and one
/// with four matrices of three sizes, where the rest must make up for them.
models::ModelConfig model(const Case& of) {
  models::ModelConfig config = models::preset(of.preset);
  config.L = of.divides ? config.L : 1;
  return config;
}

std::vector<BlockSpec> specs_of(const models::ModelConfig& config) {
  std::vector<BlockSpec> specs;
  for (const auto& block : models::build_blocks(config)) {
    specs.push_back(block->spec());
  }
  return specs;
}

class Sharding : public testing::TestWithParam<Case> {
 protected:
  /// Bytes beside the working weights, and how many fields they are in.
  struct Owned {
    std::int64_t bytes = 0, fields = 0;
  };
  Owned owned(const ParamInfo& param, std::int64_t begin, std::int64_t end) const {
    Owned sum;
    const WeightFormat kept = optim::format_of(GetParam().format, param, GetParam().working);
    for (const StateLayout& layout : {method_->state_layout(param), optim::weight_fields(kept)}) {
      for (const StateField& field : layout) {
        sum.bytes += field_numel(field, param.shape, begin, end) * size_bytes(field.dtype);
        ++sum.fields;
      }
    }
    return sum;
  }
  std::vector<ShardSpec> shards(int world) const {
    auto all = make_shards(*method_, specs_, GetParam().format, GetParam().working, world);
    std::ranges::sort(all, [](const ShardSpec& a, const ShardSpec& b) {
      return std::tie(a.tensor, a.begin) < std::tie(b.tensor, b.begin);
    });
    return all;
  }
  /// Where parameters take turns: of those that train in the first period, or of all.
  std::vector<Owned> owned_by_rank(int world, bool first_period = false) const {
    std::map<TensorId, const ParamInfo*> params;
    for_each_param([&](const ParamInfo& param) { params[param.id] = &param; });
    const std::set<TensorId> frozen = first_period ? frozen_first() : std::set<TensorId>();
    std::vector<Owned> ranks(static_cast<std::size_t>(world));
    for (const ShardSpec& shard : shards(world)) {
      if (frozen.contains(shard.tensor)) {
        continue;
      }
      const Owned more = owned(*params.at(shard.tensor), shard.begin, shard.end);
      Owned& rank = ranks[static_cast<std::size_t>(shard.owner)];
      rank.bytes += more.bytes;
      rank.fields += more.fields;
    }
    return ranks;
  }
  std::set<TensorId> frozen_first() const {
    std::set<TensorId> frozen;
    const auto turns = method_->turns(specs_, 0, 0);
    for (std::size_t b = 0; b < specs_.size(); ++b) {
      for (std::size_t p = 0; p < specs_[b].params.size(); ++p) {
        if (turns[b][p] == Turn::frozen) {
          frozen.insert(specs_[b].params[p].info.id);
        }
      }
    }
    return frozen;
  }
  template <class F>
  void for_each_param(const F& f) const {
    for (const BlockSpec& spec : specs_) {
      for (const ParamSpec& param : spec.params) {
        f(param.info);
      }
    }
  }

  const std::vector<BlockSpec> specs_ = specs_of(model(GetParam()));
  const std::shared_ptr<optim::Optimizer> method_ =
      optim::make_optimizer(GetParam().method, GetParam().settings());
};

bool may_cut(const Granularity& along, const Shape& shape, std::int64_t at) {
  using Unit = Granularity::Unit;
  const bool by_unit = along.unit == Unit::element ||
                       (along.unit == Unit::block && at % along.block == 0) ||
                       (along.unit == Unit::row && at % shape.back() == 0);
  return by_unit && at % kChunk == 0;
}

TEST_P(Sharding, EveryElementHasOneOwnerAndEveryCutIsLegal) {
  for (int world = 1; world <= kMostRanks; ++world) {
    const std::vector<ShardSpec> all = shards(world);
    for_each_param([&](const ParamInfo& param) {
      SCOPED_TRACE(param.name + " on " + std::to_string(world));
      const Granularity along = method_->granularity(param);
      std::int64_t covered = 0;
      for (const ShardSpec& shard : all) {
        if (shard.tensor == param.id) {
          EXPECT_EQ(shard.begin, covered);
          EXPECT_LT(shard.begin, shard.end);
          EXPECT_TRUE(shard.begin == 0 || may_cut(along, param.shape, shard.begin)) << shard.begin;
          EXPECT_EQ(shard.begin % optim::cut_unit(*method_, param), 0);
          EXPECT_TRUE(shard.owner >= 0 && shard.owner < world) << shard.owner;
          covered = shard.end;
        }
      }
      EXPECT_EQ(covered, param.shape.numel());
    });
  }
}

TEST_P(Sharding, RanksAreLevelledByWhatTheyKeep) {
  std::int64_t whole = 0;
  for_each_param(
      [&](const ParamInfo& param) { whole += owned(param, 0, param.shape.numel()).bytes; });
  for (int world = 1; world <= kMostRanks; ++world) {
    for (const bool first_period : {false, true}) {
      std::int64_t sum = 0, most = 0;
      for (const Owned& rank : owned_by_rank(world, first_period)) {
        sum += rank.bytes;
        most = std::max(most, rank.bytes);
      }
      EXPECT_TRUE(sum == whole || first_period) << world;
      const double mean = static_cast<double>(sum) / world;
      EXPECT_LE(static_cast<double>(most), kLevel * mean) << "of " << world << " ranks";
    }
  }
}

/// To the byte in what the plan tells of the optimizer; the label of memory has fields at multiples
/// of 64 bytes and the packs of blocks at multiples of 4096.
TEST_P(Sharding, ThePlanSaysWhatEachRankKeeps) {
  Computation c;
  c.model = model(GetParam());
  c.B = 1;
  c.T = 64;
  c.G = kMostRanks;
  c.dtype = GetParam().working;
  c.weights = GetParam().format;
  c.method = GetParam().method;
  c.method_settings = GetParam().settings();
  for (const int world : {1, 3}) {
    const std::vector<Owned> ranks = owned_by_rank(world, true);
    for (int rank = 0; rank < world; ++rank) {
      c.place = {.rank = rank, .world = world, .on_machine = world};
      const Blueprint blueprint(c);
      const Owned& kept = ranks[static_cast<std::size_t>(rank)];
      const OptimizerBytes told = blueprint.optimizer_bytes();
      EXPECT_EQ(told.all_state() + told.weights, kept.bytes);
      const auto& labels = blueprint.plan().tiers.at({TierKind::device, 0}).labels;
      std::int64_t label = 0;
      for (const char* name : {"state", "turn_state"}) {
        label += labels.contains(name) ? labels.at(name) : 0;
      }
      EXPECT_GE(label, kept.bytes);
      EXPECT_LE(label, kept.bytes + 64 * kept.fields + 4096 * std::ssize(specs_));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, Sharding, testing::ValuesIn(cases()), [](const auto& of) {
  return of.param.name();
});

}  // namespace
}  // namespace strata::launch
