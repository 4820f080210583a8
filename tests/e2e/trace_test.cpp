// What --trace.steps leaves: read back as a viewer would.
#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/tiny_run.h"

namespace strata::tests {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::IsSupersetOf;

json trace_of(const fs::path& run) {
  std::ifstream in(run / "trace.json");
  EXPECT_TRUE(in.is_open()) << run;
  return json::parse(in, nullptr, false);
}

struct Event {
  std::string name, direction;
  double begin = 0, end = 0;  // microseconds
  int block = -1, micro_batch = -1;
  bool holds(const Event& inner) const { return begin <= inner.begin && inner.end <= end; }
};

/// Complete events of one category, in the order of the file.
std::vector<Event> events(const json& trace, const std::string& category) {
  std::vector<Event> all;
  for (const json& e : trace["traceEvents"]) {
    if (e["ph"] != "X" || e["cat"] != category) {
      continue;
    }
    EXPECT_EQ(e["pid"], 0);
    EXPECT_EQ(e["tid"], 0);
    const json& args = e["args"];
    const double begin = e["ts"], length = e["dur"];
    all.push_back({e["name"],
                   args.value("direction", ""),
                   begin,
                   begin + length,
                   args.value("block", -1),
                   args.value("micro_batch", -1)});
  }
  return all;
}

std::vector<std::string> names(const std::vector<Event>& all) {
  std::vector<std::string> names;
  std::ranges::transform(all, std::back_inserter(names), &Event::name);
  return names;
}

int count(const std::vector<Event>& all, const std::string& name, const std::string& direction) {
  return static_cast<int>(std::ranges::count_if(
      all, [&](const Event& e) { return e.name == name && e.direction == direction; }));
}

TEST(Trace, ShowsTheChosenStepsAndWhatHappenedInThem) {
  const TinyRuns runs;
  const Words five{"--train.steps=5", "--train.micro_batch=2"};
  Words traced = five;
  traced.push_back("--trace.steps=2:3");
  const CommandEnd end = run_command(runs.train("traced", traced));
  ASSERT_EQ(end.exit_code, 0) << end.text();
  const json trace = trace_of(runs / "traced");
  ASSERT_TRUE(trace.is_object());
  EXPECT_EQ(trace["otherData"]["spans_lost"], 0);

  const auto steps = events(trace, "step");
  EXPECT_THAT(names(steps), ElementsAre("step 2", "step 3"));
  EXPECT_EQ(steps[0].begin, 0);
  EXPECT_LE(steps[0].end, steps[1].begin);
  const auto instructions = events(trace, "instruction"), ops = events(trace, "op");
  EXPECT_THAT(names(instructions),
              IsSupersetOf({"begin", "forward", "backward", "norm", "decide", "update", "end"}));
  // Two steps of two micro-batches; the head's backward is part of its forward.
  EXPECT_EQ(count(instructions, "forward", ""), 4 * 3);
  EXPECT_EQ(count(instructions, "backward", ""), 4 * 2);
  const std::map<std::string, int> of_a_pass = {{"embedding", 1},
                                                {"layer_norm", 2},
                                                {"residual_layer_norm", 1},
                                                {"linear", 4},
                                                {"attention", 1},
                                                {"gelu_tanh", 1},
                                                {"residual_dropout", 1}};
  for (const auto& [op, runs_of_it] : of_a_pass) {
    EXPECT_EQ(count(ops, op, "forward"), 4 * runs_of_it) << op;
    EXPECT_EQ(count(ops, op, "backward"), 4 * runs_of_it) << op;
  }
  EXPECT_EQ(count(ops, "linear_cross_entropy", "backward"), 4);
  EXPECT_EQ(ops.size(), 4u * (2 * 11 + 1));

  const auto holders = [](const std::vector<Event>& outer, const Event& inner) {
    return std::ranges::count_if(outer, [&](const Event& e) { return e.holds(inner); });
  };
  for (const Event& instruction : instructions) {
    EXPECT_EQ(holders(steps, instruction), 1) << instruction.name;
  }
  for (const Event& op : ops) {
    ASSERT_EQ(holders(instructions, op), 1) << op.name;
    const Event& in =
        *std::ranges::find_if(instructions, [&](const Event& e) { return e.holds(op); });
    EXPECT_EQ(in.block, op.block) << op.name;
    EXPECT_EQ(in.micro_batch, op.micro_batch) << op.name;
    EXPECT_GE(op.block, 0) << op.name;
  }

  ASSERT_EQ(run_command(runs.train("plain", five)).exit_code, 0);
  EXPECT_FALSE(exists(runs / "plain" / "trace.json"));
  expect_identical(runs / "traced", runs / "plain");
}

TEST(Trace, NamesItsLaneAndCountsBytes) {
  const TinyRuns runs;
  ASSERT_EQ(run_command(runs.train("run", {"--trace.steps=6"})).exit_code, 0);
  const json trace = trace_of(runs / "run");
  ASSERT_TRUE(trace.is_object());
  std::set<std::string> threads;
  std::vector<double> counted;
  for (const json& e : trace["traceEvents"]) {
    if (e["name"] == "thread_name") {
      EXPECT_EQ(e["ph"], "M");
      EXPECT_EQ(e["tid"], 0);
      threads.insert(e["args"]["name"]);
    } else if (e["ph"] == "C") {
      counted.push_back(e["ts"]);
      EXPECT_GT(e["args"]["weights"], 0);
      EXPECT_GT(e["args"]["state"], 0);
    }
  }
  EXPECT_THAT(threads, ElementsAre("compute"));
  const auto steps = events(trace, "step");
  ASSERT_EQ(steps.size(), 1u);
  EXPECT_EQ(steps[0].name, "step 6");
  ASSERT_EQ(counted.size(), 2u);
  EXPECT_EQ(counted[0], steps[0].begin);
  EXPECT_NEAR(counted[1], steps[0].end, 1e-3);
}

TEST(Trace, AResumedRunCountsItsStepsFromTheFirstStart) {
  const TinyRuns runs;
  const fs::path run = runs.killed("run");  // after step 4; step 3 is saved
  ASSERT_EQ(run_command({"resume", run, "--trace.steps=2:5"}).exit_code, 0);
  EXPECT_THAT(names(events(trace_of(run), "step")), ElementsAre("step 4", "step 5"));
  ASSERT_EQ(run_command({"resume", run, "--train.steps=8", "--trace.steps=2:5"}).exit_code, 0);
  EXPECT_THAT(names(events(trace_of(run), "step")), ElementsAre("step 4", "step 5"));
}

TEST(Trace, AStoppedRunWritesWhatItHas) {
  const TinyRuns runs;
  Command command(runs.train(
      "run", {"--train.steps=10000000", "--trace.steps=3:10000000", "--checkpoint.every=0"}));
  ASSERT_TRUE(command.wait_for_err("step       10/"));
  command.signal(SIGTERM);
  const CommandEnd end = command.wait();
  ASSERT_EQ(end.exit_code, 75) << end.text();
  const json trace = trace_of(runs / "run");
  const auto steps = events(trace, "step");
  ASSERT_GE(steps.size(), 8u);
  EXPECT_EQ(steps[0].name, "step 3");
  EXPECT_EQ(trace["otherData"]["first_step"], 3);
  EXPECT_EQ(steps.back().name,
            "step " + std::to_string(trace["otherData"]["last_step"].get<int>()));
}

TEST(Trace, StepsThatCannotBeAreRefused) {
  const TinyRuns runs;
  for (const char* wrong : {"5:7", "20:", "a:b", "22:20"}) {
    expect_refused(run_command(runs.train("run", {std::string("--trace.steps=") + wrong})),
                   2,
                   {"trace.steps", wrong});
  }
  EXPECT_FALSE(exists(runs / "run"));
}

}  // namespace
}  // namespace strata::tests
