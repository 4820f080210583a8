#include "launch/trace.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/temp_dir.h"

namespace strata::launch {
namespace {

using ::testing::HasSubstr;
using tests::TempDir;

class TraceTest : public ::testing::Test {
 protected:
  TraceConfig config(std::size_t spans) { return {dir_ / "trace.json", {2, 3}, spans}; }
  /// Runs steps 1 to `last` that leave three spans each; what the trace says on standard error.
  std::string trace(const TraceConfig& config, std::int64_t last) {
    testing::internal::CaptureStderr();
    {
      Trace trace(config, ledger_, report_);
      for (std::int64_t step = 1; step <= last; ++step) {
        SpanLog* const log = trace.begin(step);
        EXPECT_EQ(log != nullptr, step == 2 || step == 3) << step;
        for (const Lane lane : {Lane::compute, Lane::copy_in, Lane::compute}) {
          const SpanTimer timer(log, {.name = "work", .lane = lane});
        }
        trace.end();
        EXPECT_EQ(exists(config.file), step >= 3) << step;
      }
    }
    return testing::internal::GetCapturedStderr();
  }
  nlohmann::json written() {
    std::ifstream in(dir_ / "trace.json");
    return nlohmann::json::parse(in, nullptr, false);
  }
  static int spans(const nlohmann::json& trace) {
    int count = 0;
    for (const auto& e : trace["traceEvents"]) {
      count += e["name"] == "work" ? 1 : 0;
    }
    return count;
  }

  TempDir dir_;
  Ledger ledger_;
  Report report_{dir_.path(), 0};
};

TEST_F(TraceTest, LanesHaveTracksOfTheirOwn) {
  EXPECT_EQ(trace(config(6), 4), "");
  const auto json = written();
  EXPECT_EQ(spans(json), 6);
  EXPECT_EQ(json["otherData"]["spans_lost"], 0);
  std::map<int, std::string> lanes;
  for (const auto& e : json["traceEvents"]) {
    if (e["name"] == "thread_name") {
      EXPECT_TRUE(lanes.emplace(e["tid"], e["args"]["name"]).second);
    } else if (e["name"] == "work") {
      EXPECT_TRUE(lanes.contains(e["tid"]));
    }
  }
  EXPECT_EQ(lanes, (std::map<int, std::string>{{0, "compute"}, {1, "copy in"}}));
}

TEST_F(TraceTest, LostSpansAreCountedAloudAndInTheFile) {
  EXPECT_THAT(trace(config(4), 5), HasSubstr("trace.json lacks 2 spans of 6"));
  EXPECT_EQ(spans(written()), 4);
  EXPECT_EQ(written()["otherData"]["spans_lost"], 2);
}

TEST_F(TraceTest, ARunThatEndsEarlyWritesAndOneThatNeverGotThereDoesNot) {
  EXPECT_EQ(trace(config(6), 1), "");
  EXPECT_FALSE(exists(dir_ / "trace.json"));
  EXPECT_EQ(trace(config(6), 2), "");
  EXPECT_EQ(spans(written()), 3);
  EXPECT_EQ(written()["otherData"]["last_step"], 2);
}

TEST_F(TraceTest, AStepThatThrewIsKept) {
  {
    Trace trace(config(6), ledger_, report_);
    const SpanTimer timer(trace.begin(2), {.name = "work"});
  }
  EXPECT_EQ(written()["otherData"]["last_step"], 2);
}

TEST_F(TraceTest, WhereItCannotBeWrittenARunGoesOn) {
  TraceConfig nowhere = config(6);
  nowhere.file = dir_ / "none" / "trace.json";
  testing::internal::CaptureStderr();
  {
    Trace trace(nowhere, ledger_, report_);
    trace.begin(3);
    trace.end();
  }
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("warning: trace not written: "));
}

TEST(TraceSpans, AreEnoughForTheStepsUpToAMillion) {
  Program program;
  for (const Op op : {Op::begin, Op::forward, Op::backward, Op::end}) {
    program.step.emplace_back().op = op;
  }
  EXPECT_EQ(trace_spans({1, 0}, program), 0u);
  EXPECT_EQ(trace_spans({5, 6}, program), 2 * trace_spans({5, 5}, program));
  EXPECT_GE(trace_spans({5, 5}, program), 4u + 2 * 30);
  EXPECT_EQ(trace_spans({1, std::int64_t{1} << 62}, program), std::size_t{1} << 20);
}

}  // namespace
}  // namespace strata::launch
