// Checkpoints with a flipped bit: the older one is taken, aloud; where there is none, nothing
// starts afresh and nothing is touched.
#include <filesystem>

#include <gtest/gtest.h>

#include "tests/support/tiny_run.h"

namespace strata::tests {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOlder = "s000000000002-i0001";
constexpr const char* kNewer = "s000000000003-i0001";

struct Damage {
  const char* file;
  bool seen_by_every_look;  // else by a look at every byte only
};
void PrintTo(const Damage& damage, std::ostream* os) {
  *os << damage.file;
}

class DamagedCheckpoint : public testing::TestWithParam<Damage> {
 protected:
  void damage(const char* checkpoint) const {
    const fs::path file = run_ / "ckpt" / checkpoint / GetParam().file;
    flip_bit(file, static_cast<std::int64_t>(fs::file_size(file)) * 8 / 2 + 1);
  }

  TinyRuns runs_;
  fs::path run_ = runs_.killed("run");
};

TEST_P(DamagedCheckpoint, ResumeTakesTheOlderOneAndSaysSo) {
  damage(kNewer);
  const CommandEnd end = run_command(runs_.train("run", {"--resume=auto"}));
  EXPECT_EQ(end.exit_code, 0) << end.text();
  EXPECT_NE(end.err.find("strata: warning: passing over a damaged checkpoint"), std::string::npos)
      << end.text();
  EXPECT_NE(end.err.find(std::string(kNewer) + "/" + GetParam().file), std::string::npos)
      << end.text();
  EXPECT_NE(end.err.find(std::string("resuming from ") + (run_ / "ckpt" / kOlder).string()),
            std::string::npos)
      << end.text();
  expect_identical(run_, runs_.finished("undisturbed"));
}

TEST_P(DamagedCheckpoint, WithNoOtherNothingStartsAfreshAndNothingIsTouched) {
  damage(kNewer);
  damage(kOlder);
  const auto before = runs_.contents();
  const std::string path = run_ / "ckpt" / kNewer;
  expect_refused(run_command(runs_.train("run", {"--resume=auto"})),
                 5,
                 {kNewer, kOlder, "damaged", "run.dir"});
  expect_refused(run_command(runs_.train("run", {"--resume=" + run_.string()})),
                 5,
                 {kNewer, kOlder, "damaged", "run.dir"});
  expect_refused(run_command({"resume", run_}), 5, {kNewer, kOlder, "damaged", "run.dir"});
  expect_refused(
      run_command(runs_.train("run", {"--resume=" + path})), 5, {path, "use another checkpoint"});
  expect_refused(
      run_command(runs_.train("new", {"--resume=" + path})), 5, {path, "use another checkpoint"});
  EXPECT_EQ(runs_.contents(), before);
}

TEST_P(DamagedCheckpoint, IsNotEvaluatedOrShown) {
  damage(kNewer);
  const std::string path = run_ / "ckpt" / kNewer;
  if (GetParam().seen_by_every_look) {  // a value of the optimizer's state is not read for this
    expect_refused(run_command({"eval", path, "--data", runs_ / "text", "--json"}), 5, {path});
    expect_refused(run_command({"generate", path, "--prompt", "a", "--json"}), 5, {path});
  }
  expect_refused(run_command({"inspect", "show", path, "--json"}), 5, {path});
  const fs::path sound = runs_.killed("sound") / "ckpt" / kNewer;
  expect_refused(run_command({"inspect", "diff", path, sound, "--json"}), 5, {path});
}

INSTANTIATE_TEST_SUITE_P(EveryFile,
                         DamagedCheckpoint,
                         testing::Values(Damage{"d00000_00.safetensors", false},
                                         Damage{"MANIFEST.pb", true},
                                         Damage{"config.json", true},
                                         Damage{"strata_tokenizer.json", true}));

}  // namespace
}  // namespace strata::tests
