// The batch script of launch/slurm, with an mpirun and an scontrol that only note how they are
// called.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include "tests/support/temp_dir.h"

namespace strata::tests {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const fs::path kScript = fs::path(STRATA_SOURCE_DIR) / "launch/slurm/train.sbatch";

class Slurm : public testing::Test {
 protected:
  /// A program that the script finds first in PATH.
  void program(const std::string& name, const std::string& body) const {
    std::ofstream(dir_ / name) << "#!/usr/bin/env bash\ncd \"$(dirname \"$0\")\"\necho \"$*\" >> "
                               << name << ".calls\n"
                               << body;
    fs::permissions(dir_ / name, fs::perms::owner_all);
  }

  /// Submits, does `then` while the job `$job` runs, and returns the job's exit code.
  int submit(const std::string& then) const {
    std::ofstream(dir_ / "driver.sh")
        << "cd '" << dir_.path().string()
        << "'\nexport PATH=\"$PWD:$PATH\" SLURM_JOB_ID=77 "
           "SLURM_NTASKS=3\n'"
        << kScript.string()
        << "' -c 'a file.toml' & job=$!\n"
           "started() { until [ -e running ]; do sleep 0.02; done; }\n"
        << then << "\nwait $job\n";
    const std::string line =
        "timeout -k 1 60 bash '" + (dir_ / "driver.sh").string() + "' > /dev/null 2>&1";
    const int status = std::system(line.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  std::string calls(const std::string& name) const {
    std::ifstream in(dir_ / (name + ".calls"));
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
  }

  void SetUp() override { program("scontrol", ""); }

  TempDir dir_;
};

TEST_F(Slurm, ARunThatIsThroughIsNotQueuedAgain) {
  program("mpirun", "exit 0\n");
  EXPECT_EQ(submit(""), 0);
  EXPECT_EQ(calls("mpirun"),
            "--bind-to none --mca odls_base_sigkill_timeout 10 -np 3 strata train --resume=auto "
            "-c a file.toml\n");
  EXPECT_EQ(calls("scontrol"), "");
}

TEST_F(Slurm, ALostRankIsNotQueuedAgain) {
  program("mpirun", "exit 7\n");
  EXPECT_EQ(submit(""), 7);
  EXPECT_EQ(calls("scontrol"), "");
}

TEST_F(Slurm, AnInterruptedRunIsQueuedAgain) {
  program("mpirun", "exit 75\n");
  EXPECT_EQ(submit(""), 75);
  EXPECT_EQ(calls("scontrol"), "requeue 77\n");
}

constexpr const char* kSavesOnUsr1 =
    "trap 'echo asked >> asked.calls; sleep 0.3; exit 75' USR1\n"
    "touch running\n"
    "while true; do sleep 0.05; done\n";

TEST_F(Slurm, TheSignalReachesMpirunAndItsStatusCounts) {
  program("mpirun", kSavesOnUsr1);
  EXPECT_EQ(submit("started; kill -USR1 $job"), 75);
  EXPECT_EQ(calls("asked"), "asked\n");
  EXPECT_EQ(calls("scontrol"), "requeue 77\n");
}

TEST_F(Slurm, ASecondSignalDoesNotHideTheStatus) {
  program("mpirun", kSavesOnUsr1);
  EXPECT_EQ(submit("started; kill -USR1 $job; sleep 0.1; kill -USR1 $job"), 75);
  EXPECT_EQ(calls("scontrol"), "requeue 77\n");
}

TEST_F(Slurm, AsksForTheSignalAndForTheRequeue) {
  std::ifstream in(kScript);
  std::ostringstream text;
  text << in.rdbuf();
  for (const char* option : {"--signal=B:USR1@300", "--requeue", "--open-mode=append"}) {
    EXPECT_THAT(text.str(), HasSubstr(std::string("#SBATCH ") + option + "\n"));
  }
}

TEST_F(Slurm, ShellcheckFindsNothing) {
  if (std::system("command -v shellcheck > /dev/null 2>&1") != 0) {
    GTEST_SKIP() << "shellcheck is not installed";
  }
  EXPECT_EQ(std::system(("shellcheck '" + kScript.string() + "'").c_str()), 0);
}

}  // namespace
}  // namespace strata::tests
