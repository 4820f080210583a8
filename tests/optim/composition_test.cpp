// The product of the parts: every rule with every codec in every subspace with every remainder
// either works or is refused before anything is made.
#include "optim/composition.h"

#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include "core/error.h"
#include "optim/rule.h"
#include "optim/subspace.h"
#include "tests/optim/method_rig.h"

namespace strata::tests {
namespace {

using optim::Remainder;
using optim::Setting;
using optim::SubspaceKind;

/// A matrix that is no whole number of blocks of any codec, and what is none.
std::vector<BlockSpec> few_tensors() {
  BlockSpec block{"block", {}, {}};
  block.params = {{{1, "w", Role::matrix, {37, 61}, 1}, {}},
                  {{2, "wte", Role::embed, {11, 61}}, {}},
                  {{3, "b", Role::vector, {61}}, {}}};
  return {block};
}

bool scales(Remainder remainder) {
  return remainder == Remainder::residual || remainder == Remainder::channel ||
         remainder == Remainder::tensor;
}

struct Parts {
  std::string rule, states;
  SubspaceKind subspace = SubspaceKind::whole;
  Remainder remainder = Remainder::discard;
  bool orthogonal = false;

  bool legal() const {
    const bool only_matrices =
        orthogonal || (subspace != SubspaceKind::whole && !optim::takes_turns(subspace));
    if (subspace == SubspaceKind::eigenbasis &&
        (states != "f32" || remainder != Remainder::discard)) {
      return false;
    }
    return !(only_matrices && (rule == "adam_mini" || rule == "sgd_sai")) &&
           (optim::has_rank(subspace) || !scales(remainder));
  }
  std::vector<Setting> settings() const {
    std::vector<Setting> all{{"rule", rule},
                             {"states", states},
                             {"min_coded", "1"},
                             {"code_embeddings", "true"},
                             {"weight_decay", "0"},
                             {"percentile_clip", "50"},
                             {"orthogonal", orthogonal ? "true" : "false"},
                             {"subspace", optim::to_text(subspace)}};
    if (subspace != SubspaceKind::whole) {
      all.push_back({"refresh_every", "2"});
    }
    // All of a matrix leaves no remainder, and nothing to start anew.
    if (subspace != SubspaceKind::whole &&
        (subspace != SubspaceKind::eigenbasis || remainder != Remainder::discard)) {
      all.push_back({"remainder", optim::to_text(remainder)});
      if (!optim::takes_turns(subspace)) {
        all.push_back({"reset", "true"});
      }
    }
    return all;
  }
  std::string name() const {
    return rule + " " + states + " " + optim::to_text(subspace) + " " + optim::to_text(remainder) +
           (orthogonal ? " orthogonal" : "");
  }
};

std::vector<Parts> product() {
  std::vector<Parts> all;
  for (const std::string& rule : optim::rule_names()) {
    for (const std::string_view codec : choices(optim::StateCodec{})) {
      const std::string states(codec);
      all.push_back({rule, states});
      all.push_back({rule, states, SubspaceKind::whole, Remainder::discard, true});
      for (std::size_t s = 1; s < choices(SubspaceKind{}).size(); ++s) {
        for (std::size_t r = 0; r < choices(Remainder{}).size(); ++r) {
          all.push_back({rule, states, static_cast<SubspaceKind>(s), static_cast<Remainder>(r)});
        }
      }
    }
  }
  return all;
}

std::vector<float> weights_of(MethodRig& rig) {
  const std::vector<std::byte> bytes = rig.collect()[{"w", "weight"}];
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

TEST(Composition, EveryProductOfPartsWorksOrIsRefused) {
  int worked = 0, refused = 0;
  for (const Parts& parts : product()) {
    SCOPED_TRACE(parts.name());
    if (!parts.legal()) {
      try {
        optim::make_optimizer("adamw", parts.settings());
        ADD_FAILURE() << "accepted";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), Errc::config) << error.what();
      }
      ++refused;
      continue;
    }
    MethodRig rig("adamw", parts.settings(), WeightFormat::f32, {}, 0, few_tensors());
    const std::vector<float> before = weights_of(rig);
    for (std::int64_t t = 1; t <= 3; ++t) {
      step_alone(rig, t, gradient_of(t));
    }
    const std::vector<float> after = weights_of(rig);
    EXPECT_NE(after, before);
    for (const float value : after) {
      ASSERT_TRUE(std::isfinite(value));
    }
    ++worked;
  }
  EXPECT_GT(worked, 4 * 5 * 28);
  EXPECT_GT(refused, 5 * 37);
}

}  // namespace
}  // namespace strata::tests
