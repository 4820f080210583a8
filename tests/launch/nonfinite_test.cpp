// A gradient that is no number in one element on one rank: no rank changes a byte of weights or
// state, whatever the method, the weight format and the moment of the update, and training goes on.
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/parallel_for.h"
#include "launch/assemble.h"
#include "tests/launch/random_batches.h"
#include "tests/launch/small_model.h"
#include "tests/launch/snapshot_copy.h"
#include "tests/support/local_ranks.h"

namespace strata::launch {
namespace {

constexpr int kRanks = 2;

/// A rank of which one contribution to a sum of gradients has one wrong element.
class Poisoned final : public Communicator {
 public:
  explicit Poisoned(Communicator& ranks) : ranks_(ranks) {}
  /// `sum`: counted from the next one on.
  void poison(int sum, std::int64_t element, float value) {
    sums_left_ = sum;
    element_ = element;
    value_ = value;
  }
  bool poisoned() const { return sums_left_ < 0; }

  int rank() const override { return ranks_.rank(); }
  int size() const override { return ranks_.size(); }
  void all_reduce(std::span<const Tensor> parts, const SumOrder& order) override {
    spoil(parts);
    ranks_.all_reduce(parts, order);
  }
  void reduce_scatter(std::span<const Tensor> parts,
                      const SumOrder& order,
                      std::span<const Share> shares) override {
    spoil(parts);
    ranks_.reduce_scatter(parts, order, shares);
  }
  void all_gather(std::span<std::byte> bytes, std::span<const Share> shares) override {
    ranks_.all_gather(bytes, shares);
  }
  void broadcast(std::span<std::byte> bytes, int root) override { ranks_.broadcast(bytes, root); }
  void gather_all(std::span<std::byte> out, std::span<const std::byte> mine) override {
    ranks_.gather_all(out, mine);
  }
  void send(std::span<const std::byte> bytes, int to, int tag) override {
    ranks_.send(bytes, to, tag);
  }
  void recv(std::span<std::byte> bytes, int from, int tag) override {
    ranks_.recv(bytes, from, tag);
  }
  void barrier() override { ranks_.barrier(); }
  [[noreturn]] void abort(int exit_code) noexcept override {
    ranks_.abort(exit_code);
    std::abort();  // the compiler does not know that a call through the base does not return
  }

 private:
  void spoil(std::span<const Tensor> parts) {
    if (sums_left_-- == 0) {
      parts[0].data<float>()[element_] = value_;
    }
  }
  Communicator& ranks_;
  int sums_left_ = std::numeric_limits<int>::max();
  std::int64_t element_ = 0;
  float value_ = 0.f;
};

struct Case {
  std::string method;
  bool percentile_clip;
  WeightFormat format;
  UpdateMode mode;
};

std::string name_of(const Case& c) {
  return c.method + (c.percentile_clip ? "_clip_" : "_") + std::string(to_string(c.format)) +
         (c.mode == UpdateMode::speculative ? "_speculative" : "");
}
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << name_of(c);
}

Computation computation_of(const Case& of, int rank) {
  Computation c;
  c.place = {.rank = rank, .world = kRanks, .on_machine = kRanks};
  c.model = tests::small_gpt2(1, 64);
  c.B = 1;
  c.T = 16;
  c.G = 3;
  c.weights = of.format;
  c.dtype =
      of.format == WeightFormat::f32 || of.format == WeightFormat::int8 ? DType::f32 : DType::bf16;
  c.update = of.mode;
  c.method = of.method;
  // A turn that begins is a change by itself.
  const bool turns = optim::make_optimizer(of.method, {})->period_steps() > 0;
  for (const auto& [name, value, help] : optim::optimizer_settings(of.method)) {
    if (name == "refresh_every") {
      c.method_settings.push_back({name, turns ? "100" : "2"});
    } else if (name == "blocks") {
      c.method_settings.push_back({name, "1"});
    } else if (name == "ends") {  // a sum for each block
      c.method_settings.push_back({name, "always"});
    } else if (name == "min_coded") {
      c.method_settings.push_back({name, "1"});
    } else if (name == "code_embeddings") {
      c.method_settings.push_back({name, "true"});
    } else if (name == "percentile_clip" && of.percentile_clip) {
      c.method_settings.push_back({name, "5"});
    }
  }
  return c;
}

/// One rank: some steps, each fault in a step of its own, and a step that counts after each.
void train_and_spoil(const Case& of, Communicator& all) {
  const Computation c = computation_of(of, all.rank());
  Poisoned ranks(all);
  Engine engine(std::make_unique<Blueprint>(c), {{Tier{}, std::int64_t{1} << 30}}, ranks);
  engine.start(1, {});
  const std::vector<MicroBatch> batches = random_batches(c);
  const Program& program = engine.blueprint().step_program();
  StepScalars scalars;
  std::int64_t done = 0;
  const auto step = [&] {
    scalars.inputs.info = {.step = ++done, .seed = 1, .lr = 1e-3};
    scalars.inputs.batches = std::span(batches).subspan(
        static_cast<std::size_t>(program.first_micro_batch),
        static_cast<std::size_t>(program.last_micro_batch - program.first_micro_batch));
    scalars.inputs.loss_tokens = c.G * c.B * c.T;
    scalars.inputs.clip = 1.0;
    engine.step(scalars);
    return scalars.outcome;
  };
  step();
  EXPECT_NE(step(), Outcome::skip);
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr struct {
    int sum;
    std::int64_t element;
    float value;
  } faults[] = {{0, 7, kNan}, {1, 4321, -kInfinity}, {2, 100, kNan}};
  for (const auto& fault : faults) {
    const std::vector<std::byte> before = copy_of(engine);
    if (all.rank() == kRanks - 1) {
      ranks.poison(fault.sum, fault.element, fault.value);
    }
    EXPECT_EQ(step(), Outcome::skip);
    EXPECT_EQ(ranks.poisoned(), all.rank() == kRanks - 1);
    EXPECT_TRUE(copy_of(engine) == before) << "rank " << all.rank() << ", sum " << fault.sum;
    EXPECT_NE(step(), Outcome::skip);
    EXPECT_FALSE(copy_of(engine) == before) << "nothing moves: the test cannot fail";
  }
}

class Nonfinite : public testing::TestWithParam<Case> {
 protected:
  Nonfinite() { set_thread_count(1); }
  ~Nonfinite() override { set_thread_count(before_); }

 private:
  const int before_ = thread_count();
};

TEST_P(Nonfinite, OneElementOnOneRankChangesNothingAnywhere) {
  tests::LocalRanks(kRanks).run([](Communicator& all) { train_and_spoil(GetParam(), all); });
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string& method : optim::optimizer_names()) {
    for (const UpdateMode mode : {UpdateMode::after_norm, UpdateMode::speculative}) {
      all.push_back({method, true, WeightFormat::f32, mode});
    }
  }
  for (const WeightFormat format : {WeightFormat::bf16_master,
                                    WeightFormat::bf16_stochastic,
                                    WeightFormat::bf16_kahan,
                                    WeightFormat::int8}) {
    all.push_back({"adamw", false, format, UpdateMode::after_norm});
    all.push_back({"adamw", false, format, UpdateMode::speculative});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Methods, Nonfinite, testing::ValuesIn(cases()), [](const auto& of) {
  return name_of(of.param);
});

}  // namespace
}  // namespace strata::launch
