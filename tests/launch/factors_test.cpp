// Matrices that are kept as two factors: from time to time the factors share the singular values
// of their product, which stays, and their moments start anew.
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "launch/assemble.h"
#include "models/model.h"
#include "parallel/self_communicator.h"
#include "tests/launch/random_batches.h"
#include "tests/launch/small_model.h"

namespace strata::launch {
namespace {

constexpr std::int64_t kEvery = 3;
constexpr double kLr = 1e-3;

Computation computation(std::int64_t balance_every) {
  Computation c;
  c.model = tests::small_gpt2(2, 32);
  c.model.factor_rank = 5;
  c.B = 1;
  c.T = 16;
  c.G = 2;
  c.balance_every = balance_every;
  c.method_settings = {{"weight_decay", "0"}};
  return c;
}

/// Values by tensor and field.
using Values = std::map<std::pair<std::string, std::string>, std::vector<double>>;

class Copy final : public Snapshotter {
 public:
  explicit Copy(StateDict dict) : dict_(std::move(dict)) {}
  void snapshot(const Instruction& i, const Held& packs) override {
    for (const StateEntry& entry : dict_) {
      if (entry.pack.block == i.block) {
        std::vector<float> floats(static_cast<std::size_t>(entry.numel));
        std::memcpy(floats.data(), packs[entry.pack].data() + entry.offset, 4 * floats.size());
        values[{entry.tensor, entry.state}].assign(floats.begin(), floats.end());
      }
    }
  }
  Values values;

 private:
  StateDict dict_;
};

/// Values after each step, the first ones before any.
std::vector<Values> train(const Computation& c, std::int64_t steps) {
  parallel::SelfCommunicator self;
  Engine engine(std::make_unique<Blueprint>(c), {{Tier{}, std::int64_t{1} << 30}}, self);
  engine.start(1, {});
  const std::vector<MicroBatch> batches = random_batches(c);
  std::vector<Values> all;
  const auto copy = [&] {
    Copy now(engine.state_dict());
    engine.snapshot(now);
    all.push_back(now.values);
  };
  copy();
  for (std::int64_t t = 1; t <= steps; ++t) {
    StepScalars scalars;
    scalars.inputs.info = {.step = t, .seed = 1, .lr = kLr};
    scalars.inputs.batches = batches;
    scalars.inputs.loss_tokens = c.G * c.B * c.T;
    engine.step(scalars);
    copy();
  }
  EXPECT_EQ(engine.ledger().peak(Tier{}), engine.blueprint().plan().tiers.at(Tier{}).peak_bytes);
  return all;
}

struct Pair {
  ParamInfo left, right;
};
std::vector<Pair> pairs(const Computation& c) {
  std::vector<Pair> all;
  for (const auto& block : models::build_blocks(c.model)) {
    const BlockSpec& spec = block->spec();
    for (const FactorPair& pair : spec.factors) {
      all.push_back({spec.params[static_cast<std::size_t>(pair.left)].info,
                     spec.params[static_cast<std::size_t>(pair.right)].info});
    }
  }
  return all;
}

/// (rows, columns) = x (rows, inner) * y (inner, columns)
std::vector<double> product(const std::vector<double>& x,
                            const std::vector<double>& y,
                            std::size_t rows,
                            std::size_t inner,
                            std::size_t columns) {
  std::vector<double> out(rows * columns);
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t k = 0; k < inner; ++k) {
      for (std::size_t j = 0; j < columns; ++j) {
        out[i * columns + j] += x[i * inner + k] * y[k * columns + j];
      }
    }
  }
  return out;
}

std::vector<double> turned(const std::vector<double>& x, std::size_t rows, std::size_t columns) {
  std::vector<double> out(x.size());
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < columns; ++j) {
      out[j * rows + i] = x[i * columns + j];
    }
  }
  return out;
}

double norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double value : x) {
    sum += value * value;
  }
  return std::sqrt(sum);
}
double distance(std::vector<double> x, const std::vector<double>& y) {
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] -= y[i];
  }
  return norm(x);
}

TEST(Factors, ShareTheSingularValuesAndTheProductStays) {
  const Computation c = computation(kEvery);
  const std::vector<Values> some = train(c, kEvery), none = train(computation(0), kEvery);
  ASSERT_EQ(pairs(c).size(), 8u);
  for (const Pair& pair : pairs(c)) {
    SCOPED_TRACE(pair.left.name);
    const auto a = static_cast<std::size_t>(pair.left.shape[0]);
    const auto r = static_cast<std::size_t>(pair.left.shape[1]);
    const auto b = static_cast<std::size_t>(pair.right.shape[1]);
    const auto of = [&](const Values& values, const ParamInfo& param) {
      return values.at({param.name, "weight"});
    };
    const auto left = of(some.back(), pair.left), right = of(some.back(), pair.right);
    const auto was = product(of(none.back(), pair.left), of(none.back(), pair.right), a, r, b);
    const auto is = product(left, right, a, r, b);
    EXPECT_LE(distance(is, was), 1e-5 * norm(was));
    const auto left_gram = product(turned(left, a, r), left, r, a, r);
    const auto right_gram = product(right, turned(right, r, b), r, b, r);
    EXPECT_LE(distance(left_gram, right_gram), 1e-5 * norm(left_gram));
    const auto before_left = of(none.back(), pair.left);
    const auto unbalanced = product(turned(before_left, a, r), before_left, r, a, r);
    EXPECT_GT(distance(left_gram, unbalanced), 1e-3 * norm(left_gram)) << "nothing to balance";
    for (const ParamInfo& param : {pair.left, pair.right}) {
      for (const char* moment : {"m", "v"}) {
        EXPECT_EQ(norm(some.back().at({param.name, moment})), 0) << moment;
        EXPECT_GT(norm(none.back().at({param.name, moment})), 0);
      }
    }
  }
  // What is no factor goes on.
  EXPECT_GT(norm(some.back().at({"transformer.wte.weight", "m"})), 0);
}

// Fresh moments and a fresh age: the first step after is as long as the first of all.
TEST(Factors, StepsStartAnewWithTheMoments) {
  const Computation c = computation(kEvery);
  const std::vector<Values> steps = train(c, kEvery + 1);
  for (const Pair& pair : pairs(c)) {
    for (const ParamInfo& param : {pair.left, pair.right}) {
      const std::pair<std::string, std::string> weight{param.name, "weight"};
      for (const std::size_t t : {std::size_t{0}, static_cast<std::size_t>(kEvery)}) {
        const auto& was = steps[t].at(weight);
        const double moved = distance(steps[t + 1].at(weight), was);
        EXPECT_NEAR(moved / std::sqrt(static_cast<double>(was.size())), kLr, 0.02 * kLr)
            << param.name << " after step " << t;
      }
    }
  }
}

}  // namespace
}  // namespace strata::launch
