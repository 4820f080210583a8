// Settings of an optimizer that cannot be: refused with the setting's name, what it takes and what
// came, before anything is written.
#include <gtest/gtest.h>

#include "tests/support/tiny_run.h"

namespace strata::tests {
namespace {

class BadMethod : public testing::Test {
 protected:
  /// The words are settings of the section optim, unless they name another.
  void refused(const Words& settings, std::initializer_list<std::string_view> says) const {
    Words words;
    for (const std::string& setting : settings) {
      const bool whole = setting.starts_with("train.") || setting.starts_with("numerics.");
      words.push_back((whole ? "--" : "--optim.") + setting);
    }
    const auto before = runs_.contents();
    expect_refused(run_command(runs_.train("run", words)), 2, says);
    EXPECT_EQ(runs_.contents(), before);
  }

 private:
  TinyRuns runs_;  // its matrices have a short side of 16
};

TEST_F(BadMethod, ASubspaceThatIsNoneOfTheMatrix) {
  refused({"method=galore", "rank=17"},
          {"optim.rank", "at most 16", "c_attn.weight", "got 17", "nearest is optim.rank=16"});
  refused({"method=apollo", "rank=-1"}, {"optim.rank", "at least 0", "'-1'"});
  refused({"method=galore", "refresh_every=0"}, {"optim.refresh_every", "at least 1", "'0'"});
  for (const char* method : {"frugal", "microadam"}) {
    const std::string name = "method=" + std::string(method);
    refused({name, "density=1.5"}, {"optim.density", "<= 1", "nearest is 1", "'1.5'"});
    refused({name, "density=0"}, {"optim.density", "0 < density", "such as 0.01", "'0'"});
    refused({name, "density=-1"}, {"optim.density", "0 < density", "'-1'"});
    refused({name, "density=nan"}, {"optim.density", "a number", "'nan'"});
  }
}

TEST_F(BadMethod, TurnsThatTheModelCannotTake) {
  refused({"method=badam", "blocks=9"}, {"optim.blocks", "needs 1 to", "got 9", "nearest is"});
  refused({"method=badam", "blocks=0"}, {"optim.blocks", "at least 1", "'0'"});
  refused({"method=lisa", "remainder=channel"}, {"optim.remainder", "discard, sign or sgd"});
}

TEST_F(BadMethod, ImmediateUpdatesBeneathALimitOfTheWholeNorm) {
  refused({"numerics.update=immediate"},
          {"numerics.update", "optim.clip = 1", "nearest is --optim.clip_scope=pack"});
}

TEST_F(BadMethod, UnknownNames) {
  refused({"method=galor"}, {"optim.method", "'galor'", "'galore'"});
  refused({"rule=adamx"}, {"optim.rule", "one of adam, ", "'adamx'"});
  refused({"states=7bit"}, {"optim.states", "8bit", "'7bit'"});
  refused({"subspace=svdd"}, {"optim.subspace", "svd", "'svdd'"});
  refused({"method=galore", "remainder=none"}, {"optim.remainder", "discard", "'none'"});
  refused({"method=galore", "basis_dtype=f16"}, {"optim.basis_dtype", "bf16", "'f16'"});
  refused({"method=muon", "aux.rule=adamx"}, {"optim.aux.rule", "one of adam, ", "'adamx'"});
  refused({"beta3=0.9"}, {"optim.beta3", "optim.beta1"});
  refused({"train.weights=kahann"}, {"train.weights", "kahan", "'kahann'"});
}

TEST_F(BadMethod, SettingsOfPartsThatAreNotInUse) {
  refused({"rank=4"}, {"optim.rank", "adamw", "optim.subspace=svd, random, gaussian"});
  refused({"method=galore", "density=0.5"}, {"optim.density", "galore", "optim.subspace=columns"});
  refused({"method=galore", "rest_lr=2"}, {"optim.rest_lr", "optim.remainder=sign, sgd"});
  refused({"momentum=0.9"}, {"optim.momentum", "optim.rule=", "sgd"});
  refused({"ns_steps=5"}, {"optim.ns_steps", "optim.orthogonal=true"});
  refused({"aux.rule=sgd"}, {"optim.aux.rule", "optim.subspace="});
  refused({"method=muon", "aux.momentum=0.9"}, {"optim.aux.momentum", "optim.aux.rule="});
  refused({"method=microadam", "rank=4"}, {"optim.rank", "microadam has no such setting"});
}

TEST_F(BadMethod, PartsThatDoNotFit) {
  for (const char* remainder : {"residual", "channel", "tensor"}) {
    refused({"subspace=rows", "remainder=" + std::string(remainder)},
            {"optim.remainder", "subspace=rows", "sign, sgd or discard"});
  }
  refused({"orthogonal=true", "subspace=svd"}, {"optim.orthogonal", "subspace=whole", "'true'"});
  refused({"method=adam_mini", "subspace=svd"}, {"optim.rule", "such as adam", "'adam_mini'"});
  refused({"method=adam_mini", "orthogonal=true"}, {"optim.rule", "such as adam", "'adam_mini'"});
  refused({"method=sgd", "subspace=svd", "weight_decay=0.1"},
          {"optim.weight_decay", "0, or decoupled=true", "'0.1'"});
  refused({"train.weights=kahan"}, {"train.weights", "kahan", "train.dtype=bf16"});
  refused({"train.weights=f32", "train.dtype=bf16"}, {"train.weights", "train.dtype=f32"});
}

TEST_F(BadMethod, ValuesOutOfRange) {
  refused({"percentile_clip=0"}, {"optim.percentile_clip", "1 to 100", "'0'"});
  refused({"percentile_clip=101"}, {"optim.percentile_clip", "1 to 100", "'101'"});
  refused({"method=microadam", "window=0"}, {"optim.window", "1 to 64", "'0'"});
  refused({"method=microadam", "window=65"}, {"optim.window", "1 to 64", "'65'"});
  refused({"min_coded=0"}, {"optim.min_coded", "at least 1", "'0'"});
  refused({"weight_decay=-1"}, {"optim.weight_decay", "at least 0", "'-1'"});
  refused({"method=muon", "aux.beta1=1"}, {"optim.aux.beta1", "beta1 < 1", "'1'"});
  refused({"method=muon", "ns_steps=0"}, {"optim.ns_steps", "1 to 20", "'0'"});
}

}  // namespace
}  // namespace strata::tests
