// What the program says of the machine, against what the system says.
#include <cstdlib>
#include <fstream>
#include <iterator>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "tests/support/command.h"

namespace strata::tests {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using Environment = std::vector<std::pair<std::string, std::string>>;

std::string doctor(std::vector<std::string> more, Environment environment) {
  more.insert(more.begin(), "doctor");
  const CommandEnd end = run_command(std::move(more), {.environment = std::move(environment)});
  EXPECT_EQ(end.exit_code, 0) << end.text();
  EXPECT_EQ(end.err, "");
  return end.out;
}

json findings(Environment environment) {
  return json::parse(doctor({"--json"}, std::move(environment)), nullptr, false);
}

std::string contents(const char* file) {
  std::ifstream in(file);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(Doctor, SaysWhatTheSystemSays) {
  const json found = findings({{"OMP_NUM_THREADS", "1"}});
  ASSERT_TRUE(found.is_object());
  EXPECT_EQ(found["threads"], 1);
  EXPECT_GT(found["memory_total_bytes"], found["memory_free_bytes"]);
  const std::string pages = found["huge_pages"], processor = found["processor"];
  const std::string setting = contents("/sys/kernel/mm/transparent_hugepage/enabled");
  if (pages == "unknown") {
    EXPECT_EQ(setting, "");
  } else {
    EXPECT_THAT(setting, HasSubstr("[" + pages + "]"));
  }
  std::int64_t of_nodes = 0;
  for (const json& node : found["memory_nodes"]) {
    EXPECT_LE(node["free_bytes"].get<std::int64_t>(), node["total_bytes"].get<std::int64_t>());
    of_nodes += node["total_bytes"].get<std::int64_t>();
  }
  if (!found["memory_nodes"].empty()) {
    EXPECT_GE(of_nodes, found["memory_total_bytes"].get<std::int64_t>());
    EXPECT_THAT(doctor({}, {}), HasSubstr("  node " + found["memory_nodes"][0]["number"].dump()));
  }
  EXPECT_EQ(found["huge_pages_given"], pages == "always" || pages == "madvise");
  if (processor != "unknown") {
    EXPECT_THAT(contents("/proc/cpuinfo"), HasSubstr("\t: " + processor + "\n"));
  }
}

TEST(Doctor, SaysWhatIsInUse) {
  const json found = findings({});
  ASSERT_TRUE(found.is_object());
  const std::string f32 = found["matmul_kernel_f32"], bf16 = found["matmul_kernel_bf16"];
  EXPECT_FALSE(f32.empty());
  const bool plain = f32 == "plain loops";
  EXPECT_EQ(bf16.find("on f32 copies") == std::string::npos,
            plain || found["bf16_products"].get<bool>());
  EXPECT_EQ(f32.find("copies"), std::string::npos);
  if (found["bf16_attention"].get<bool>()) {
    EXPECT_EQ(found["isa"], "avx512");
  }
  EXPECT_EQ(findings({{"STRATA_ISA", "avx2"}})["bf16_attention"], false);
}

TEST(Doctor, SeesWhatTheLibraryWasToldToUse) {
  const json found = findings({{"ONEDNN_MAX_CPU_ISA", "AVX2"}, {"STRATA_ISA", "avx2"}});
  if (found["matmul"] == "plain loops") {
    GTEST_SKIP() << "this build has no matrix library";
  }
  EXPECT_EQ(found["bf16_products"], false);
  EXPECT_THAT(found["matmul_kernel_bf16"].get<std::string>(), HasSubstr("in tiles on f32 copies"));
  EXPECT_THAT(found["matmul_kernel_f32"].get<std::string>(), HasSubstr("in tiles"));
  EXPECT_THAT(doctor({}, {{"ONEDNN_MAX_CPU_ISA", "AVX2"}, {"STRATA_ISA", "avx2"}}),
              HasSubstr("products by f32 copies"));
}

TEST(Doctor, SaysWhatIdleThreadsDo) {
  const auto idle = [](Environment environment) {
    return findings(std::move(environment))["idle_threads"].get<std::string>();
  };
  EXPECT_EQ(idle({{"OMP_WAIT_POLICY", "Passive"}}), "sleep at once (OMP_WAIT_POLICY=Passive)");
  EXPECT_EQ(idle({{"OMP_WAIT_POLICY", "active"}}), "spin for ever (OMP_WAIT_POLICY=active)");
  EXPECT_EQ(idle({{"OMP_WAIT_POLICY", "active"}, {"GOMP_SPINCOUNT", "7"}}),
            "spin 7 turns, then sleep (GOMP_SPINCOUNT=7)");
  // Tests run under a policy of their own; without one the program looks whether others run.
  const char* const ours = std::getenv("OMP_WAIT_POLICY");
  const std::string kept = ours == nullptr ? "" : ours;
  unsetenv("OMP_WAIT_POLICY");
  EXPECT_THAT(idle({}),
              testing::AnyOf("spin 500 turns, then sleep (GOMP_SPINCOUNT=500)",
                             "spin for milliseconds, then sleep (libgomp's own way)"));
  if (ours != nullptr) {
    setenv("OMP_WAIT_POLICY", kept.c_str(), 1);
  }
}

TEST(Doctor, PrintsAllOfItForPeople) {
  const std::string text = doctor({}, {{"GOMP_SPINCOUNT", "7"}});
  const json found = findings({{"GOMP_SPINCOUNT", "7"}});
  for (const char* key : {"processor",
                          "idle_threads",
                          "isa",
                          "matmul",
                          "matmul_kernel_f32",
                          "matmul_kernel_bf16",
                          "huge_pages",
                          "io_engine"}) {
    EXPECT_THAT(text, HasSubstr(found[key].get<std::string>())) << key;
  }
}

TEST(Doctor, SaysWhetherALauncherStartedIt) {
  EXPECT_EQ(findings({})["ranks"], 1);
  EXPECT_THAT(doctor({}, {}), HasSubstr("none: one process"));
  const std::string cores = std::to_string(sysconf(_SC_NPROCESSORS_ONLN));
  const Environment ranks{{"OMPI_COMM_WORLD_SIZE", "6"},
                          {"OMPI_COMM_WORLD_LOCAL_SIZE", cores},
                          {"OMPI_COMM_WORLD_LOCAL_RANK", "0"}};
  const json found = findings(ranks);
  EXPECT_EQ(found["ranks"], 6);
  EXPECT_EQ(found["cores_per_rank"], 1);
  EXPECT_EQ(found["threads"], 1);
  EXPECT_THAT(doctor({}, ranks),
              HasSubstr("6 ranks, " + cores + " of them on this machine, 1 of its cores each"));
}

TEST(Doctor, SpeaksOnceForAMachine) {
  EXPECT_EQ(doctor({},
                   {{"OMPI_COMM_WORLD_SIZE", "2"},
                    {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                    {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}}),
            "");
}

}  // namespace
}  // namespace strata::tests
