// Training with bytes in other tiers, as a user starts it: the same result, killed or not, and
// clear refusals.
#include <csignal>
#include <filesystem>
#include <utility>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/mount.h>

#include "tests/support/tiny_run.h"

namespace strata::tests {
namespace {

namespace fs = std::filesystem;

class OffloadedRuns : public testing::Test {
 protected:
  OffloadedRuns() { fs::create_directory(runs_ / "files"); }
  Words settings(const Words& more = {}) const {
    Words all{"--model.L=3",
              "--model.dropout=0.1",
              "--memory.device=minimum",
              "--memory.host=1GiB",
              "--memory.nvme=" + (runs_ / "files").string() + ":1GiB"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  fs::path train(const std::string& name, const Words& more) const {
    const CommandEnd end = run_command(runs_.train(name, more));
    EXPECT_EQ(end.exit_code, 0) << end.text();
    return runs_ / name;
  }
  /// The only files of offloaded bytes are those of a process that is alive.
  void expect_no_files() const { EXPECT_TRUE(fs::is_empty(runs_ / "files")); }
  TinyRuns runs_;
};

const Words kInNvme{
    "--memory.placement=weights=nvme,state=nvme,grads=nvme,activations=nvme,update=host"};

Words with(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST_F(OffloadedRuns, EndWithTheBytesOfAResidentRun) {
  const auto resident = train("resident", {"--model.L=3", "--model.dropout=0.1"});
  expect_identical(resident, train("nvme", settings(kInNvme)));
  expect_identical(resident, train("auto", settings()));
  expect_identical(resident,
                   train("lazy", settings(with(kInNvme, {"--numerics.update=lazy_forward"}))));
  const Words all{"--memory.pinned=1GiB",
                  "--memory.far=1GiB",
                  "--memory.placement=weights=far,state=nvme,grads=pinned,activations=host,"
                  "update=pinned"};
  expect_identical(resident, train("five", settings(all)));
  const Words by_block{
      "--memory.placement=weights=1-2:nvme,3:host; state=0:device,1-4:nvme; "
      "update=2:host"};
  expect_identical(resident, train("by_block", settings(by_block)));
  expect_identical(resident,
                   train("hybrid", settings(with(kInNvme, {"--numerics.update=hybrid"}))));
  expect_identical(
      resident,
      train("threads", settings(with(kInNvme, {"--io.engine=threads", "--io.verify=all"}))));
  expect_no_files();
}

TEST_F(OffloadedRuns, A17GoOnAfterAKill) {
  for (const char* mode : {"after_norm", "speculative", "lazy_forward", "hybrid"}) {
    Words words = settings(with(kInNvme, {std::string("--numerics.update=") + mode}));
    if (mode == std::string_view("hybrid")) {
      words.emplace_back("--numerics.speculated=2");
    }
    const auto whole = train(std::string("whole-") + mode, words);
    const std::string name = std::string("killed-") + mode;
    const CommandEnd end = run_command(runs_.train(name, words),
                                       {.environment = {{"STRATA_KILL_AT", "train.step:4"}}});
    EXPECT_EQ(end.signal, SIGKILL) << end.text();
    const CommandEnd resumed = run_command(runs_.train(name, with(words, {"--resume=auto"})));
    EXPECT_EQ(resumed.exit_code, 0) << resumed.text();
    expect_identical(whole, runs_ / name);
  }
  expect_no_files();  // what the dead left was taken away too
}

TEST_F(OffloadedRuns, RefuseWhatCannotBe) {
  const fs::path files = runs_ / "files";
  const auto before = runs_.contents();
  const auto refused =
      [&](const Words& more, int code, std::initializer_list<std::string_view> words) {
        expect_refused(run_command(runs_.train("refused", more)), code, words);
      };
  refused({"--memory.nvme=" + files.string()}, 2, {"memory.nvme", "DIRECTORY:BYTES", "20GiB"});
  refused({"--memory.nvme=/no/such/place:1GiB"}, 2, {"/no/such/place", "no directory"});
  refused({"--memory.nvme=" + files.string() + ":lots"}, 2, {"lots", "DIRECTORY:BYTES"});
  refused({"--memory.host=1GiB", "--memory.placement=weights=disk"},
          2,
          {"weights=disk", "host", "nvme"});
  refused({"--memory.host=1GiB", "--memory.placement=state=nvme"}, 2, {"nvme", "memory.nvme"});
  refused({"--memory.host=1GiB", "--memory.placement=update=nvme"}, 2, {"update=nvme"});
  refused({"--memory.host=1GiB", "--model.L=3", "--memory.placement=state=5:host"},
          2,
          {"memory.placement", "blocks 0 to 4", "state=5:host"});
  refused({"--memory.far=1GiB", "--memory.placement=update=far"}, 2, {"update=far", "pinned"});
  refused({"--memory.host=1GiB", "--memory.placement=state=pinned"}, 2, {"memory.pinned"});
  refused({"--memory.far=1MiB", "--memory.far_node=77"}, 2, {"memory.far_node", "77", "0 with"});
  refused({"--numerics.speculated=2"}, 2, {"numerics.speculated", "numerics.update=hybrid"});
  refused({"--model.L=3", "--numerics.update=hybrid", "--numerics.speculated=6"},
          2,
          {"numerics.speculated", "5 blocks", "got 6"});
  for (const char* mode : {"lazy_forward", "hybrid"}) {
    refused({std::string("--numerics.update=") + mode, "--optim.method=badam"},
            2,
            {"numerics.update", mode, "badam", "turns", "after_norm"});
  }
  refused({"--memory.host=1GiB", "--memory.device=minimum", "--optim.method=badam"},
          2,
          {"badam", "turns"});
  const Words tight{"--model.L=3",
                    "--memory.device=minimum",
                    "--memory.host=1KiB",
                    "--memory.nvme=" + files.string() + ":1GiB"};
  refused(with(tight, kInNvme), 3, {"host", "1.0 KiB", "missing"});
  refused(with({"--model.L=3", "--memory.device=minimum", "--memory.host=1GiB"},
               with(kInNvme, {"--memory.nvme=" + files.string() + ":8KiB"})),
          3,
          {"nvme", "8.0 KiB"});
  refused({"--model.L=3",
           "--memory.device=minimum",
           "--memory.far=8KiB",
           "--memory.placement=state=far"},
          3,
          {"tier far", "8.0 KiB", "--memory.far="});
  EXPECT_EQ(runs_.contents(), before);
}

/// A file system of 256 KiB, gone with the test.
class SmallDisk {
 public:
  explicit SmallDisk(fs::path directory) : directory_(std::move(directory)) {
    fs::create_directory(directory_);
    mounted_ = ::mount("strata-test", directory_.c_str(), "tmpfs", 0, "size=256k") == 0;
  }
  ~SmallDisk() {
    if (mounted_) {
      ::umount2(directory_.c_str(), MNT_DETACH);
    }
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  bool mounted() const { return mounted_; }

 private:
  fs::path directory_;
  bool mounted_ = false;
};

TEST_F(OffloadedRuns, AFullDiskIsFoundBeforeTheFirstStep) {
  const SmallDisk disk(runs_ / "small");
  if (!disk.mounted()) {
    GTEST_SKIP() << "needs the right to mount a tmpfs";
  }
  const CommandEnd end = run_command(
      runs_.train("full",
                  with({"--model.L=3", "--memory.device=minimum", "--memory.host=1GiB"},
                       with(kInNvme, {"--memory.nvme=" + (runs_ / "small").string() + ":1GiB"}))));
  expect_stopped(end, 8, {"small", "free"});
  EXPECT_TRUE(fs::is_empty(runs_ / "small")) << "something is left";
}

TEST_F(OffloadedRuns, APlanSaysWhatTheRunUses) {
  Words words = runs_.train("plan", settings(with(kInNvme, {"--json"})));
  words.front() = "plan";
  const CommandEnd end = run_command(words);
  ASSERT_EQ(end.exit_code, 0) << end.text();
  const auto plan = nlohmann::json::parse(end.out);
  EXPECT_TRUE(plan["fits"].get<bool>());
  for (const char* tier : {"device", "host", "nvme"}) {
    EXPECT_GT(plan["tiers"][tier]["reserved_bytes"].get<std::int64_t>(), 0) << tier;
  }
}

}  // namespace
}  // namespace strata::tests
