#include "checkpoint/checkpoint.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/io/safetensors.h"
#include "core/schedule.h"
#include "parallel/self_communicator.h"
#include "tests/checkpoint/saved_model.h"
#include "tests/support/errors.h"
#include "tests/support/local_ranks.h"
#include "tests/support/temp_dir.h"

namespace strata::checkpoint {
namespace {

using parallel::SelfCommunicator;
using testing::ElementsAre;
using testing::HasSubstr;
using tests::expect_error;
using tests::expect_saved;
using tests::LocalRanks;
using tests::names_in;
using tests::RankState;
using tests::run_state;
using tests::TempDir;

class CheckpointTest : public testing::Test {
 protected:
  std::filesystem::path save(std::int64_t step, WriterConfig config = {}) {
    config.root = root_;
    Writer writer(config, state_.dict, self_);
    return state_.save(writer, run_state(step));
  }

  TempDir dir_;
  std::filesystem::path root_ = dir_ / "ckpt";
  SelfCommunicator self_;
  RankState state_{0, 1};
};

TEST_F(CheckpointTest, RoundTripIsExactOnBothEngines) {
  using Engine = io::QueueConfig::Engine;
  for (const Engine engine : {Engine::threads, Engine::uring}) {
    if (engine == Engine::uring && !io::uring_available()) {
      continue;
    }
    const std::int64_t step = engine == Engine::threads ? 7 : 8;
    const auto directory = save(step, {.queue = {.engine = engine}});
    expect_saved(directory, step);
    EXPECT_EQ(newest(root_, {}), directory);
  }
  EXPECT_THAT(names_in(root_), ElementsAre("s000000000007-i0001", "s000000000008-i0002"));
}

TEST_F(CheckpointTest, TheRunStateComesBack) {
  const Reader reader(save(3));
  const RunState expected = run_state(3);
  EXPECT_EQ(reader.state().tokens, expected.tokens);
  EXPECT_EQ(reader.state().samples, expected.samples);
  EXPECT_EQ(reader.state().seed, expected.seed);
  EXPECT_EQ(reader.state().numeric_hash, expected.numeric_hash);
  EXPECT_EQ(reader.state().numeric_environment, expected.numeric_environment);
  EXPECT_EQ(reader.state().settings, expected.settings);
}

TEST_F(CheckpointTest, SmallFilesAndBlocksChangeNothingInside) {
  const auto large = save(5);
  const auto small = save(5, {.file_bytes = 30'000, .queue = {.depth = 2, .block_bytes = 4096}});
  EXPECT_NE(large, small);
  EXPECT_EQ(names_in(large).size(), 2u);
  EXPECT_GT(names_in(small).size(), 5u);
  expect_saved(small, 5);
  EXPECT_EQ(first_difference(Reader(large), Reader(small)), std::nullopt);
}

TEST_F(CheckpointTest, DataFilesAreSafetensorsWithKeysThatSayWhere) {
  const auto directory = save(1);
  EXPECT_THAT(names_in(directory), ElementsAre("MANIFEST.pb", "d00000_00.safetensors"));
  const io::SafetensorsReader file(directory / "d00000_00.safetensors");
  EXPECT_EQ(file.data_offset() % 4096, 0);
  ASSERT_NE(file.find("weight:wte.weight@0+6208"), nullptr);
  EXPECT_EQ(file.find("weight:wte.weight@0+6208")->shape, (std::vector<std::int64_t>{97, 64}));
  EXPECT_EQ(file.find("scale:h.0.w@0+120300")->shape, (std::vector<std::int64_t>{30}));
  EXPECT_EQ(file.find("working:h.0.w@0+120300")->dtype, "BF16");
}

TEST_F(CheckpointTest, ManyRanksSaveAndOneReads) {
  for (const int world : {2, 3, 5}) {
    LocalRanks(world).run([&](Communicator& ranks) {
      RankState mine(ranks.rank(), world);
      Writer writer({.root = root_, .file_bytes = 100'000}, mine.dict, ranks);
      const auto directory = mine.save(writer, run_state(world));
      EXPECT_EQ(directory.parent_path(), root_);
    });
    const auto directory = newest(root_, {});
    ASSERT_TRUE(directory);
    expect_saved(*directory, world);
    EXPECT_THAT(names_in(*directory), testing::Contains("d00001_00.safetensors"));
  }
  EXPECT_EQ(first_difference(Reader(save(5)), Reader(*newest(root_, {}))), std::nullopt);
}

TEST_F(CheckpointTest, ObeysAProgram) {
  SelfCommunicator self;
  Writer writer({.root = root_}, state_.dict, self);
  state_.fill(4);
  StepShape shape;
  shape.blocks = 3;
  Machine machine;
  machine.store = &state_.store;
  machine.snapshotter = &writer;
  Executor executor(make_snapshot(shape), machine);
  StepScalars scalars;
  writer.begin(run_state(4));
  executor.run(scalars);
  expect_saved(writer.commit(), 4);
}

TEST_F(CheckpointTest, NothingIsVisibleBeforeCommitOrAfterAbort) {
  Writer writer({.root = root_}, state_.dict, self_);
  writer.begin(run_state(1));
  state_.snapshot(writer, 0);
  EXPECT_EQ(newest(root_, {}), std::nullopt);
  EXPECT_THAT(names_in(root_), ElementsAre(HasSubstr(".stage-s000000000001-i0001-")));
  writer.abort();
  EXPECT_THAT(names_in(root_), ElementsAre());
  expect_saved(state_.save(writer, run_state(2)), 2);
  {
    Writer forgotten({.root = root_}, state_.dict, self_);
    forgotten.begin(run_state(3));
  }
  EXPECT_THAT(names_in(root_), ElementsAre("s000000000002-i0001"));
}

TEST_F(CheckpointTest, LeftoversOfDeadAttemptsAreRemovedAtTheStart) {
  const auto kept = save(1);
  create_directories(root_ / ".stage-s000000000002-i0001-12345678" / "inside");
  create_directories(root_ / ".trash-s000000000000-i0001-12345678");
  create_directories(root_ / "notes");
  Writer writer({.root = root_}, state_.dict, self_);
  EXPECT_THAT(names_in(root_), ElementsAre("notes", "s000000000001-i0001"));
}

TEST_F(CheckpointTest, TheSameStepTwiceGetsTwoNames) {
  Writer writer({.root = root_}, state_.dict, self_);
  const auto first = state_.save(writer, run_state(1));
  const auto second = state_.save(writer, run_state(1));
  EXPECT_NE(first, second);
  EXPECT_EQ(newest(root_, {}), second);
  expect_saved(first, 1);
}

TEST_F(CheckpointTest, RetentionKeepsTheLastOnes) {
  Writer writer({.root = root_, .keep_last = 2}, state_.dict, self_);
  for (std::int64_t step = 1; step <= 4; ++step) {
    state_.save(writer, run_state(step));
    EXPECT_EQ(names_in(root_).size(), std::min<std::size_t>(2, static_cast<std::size_t>(step)));
  }
  EXPECT_THAT(names_in(root_), ElementsAre("s000000000003-i0001", "s000000000004-i0001"));
}

TEST_F(CheckpointTest, RetentionCountsCompleteOnesOnly) {
  Writer writer({.root = root_, .keep_last = 2}, state_.dict, self_);
  state_.save(writer, run_state(1));
  const auto second = state_.save(writer, run_state(2));
  std::filesystem::remove(second / "MANIFEST.pb");
  state_.save(writer, run_state(3));
  EXPECT_THAT(names_in(root_),
              ElementsAre("s000000000001-i0001", "s000000000002-i0001", "s000000000003-i0001"));
  state_.save(writer, run_state(4));
  EXPECT_THAT(names_in(root_), ElementsAre("s000000000003-i0001", "s000000000004-i0001"));
}

TEST_F(CheckpointTest, RetentionNeverRemovesWhatWasJustCommitted) {
  save(20);
  save(30);
  const auto replayed = save(11, {.keep_last = 1});  // resumed from an earlier checkpoint
  EXPECT_THAT(names_in(root_), ElementsAre(replayed.filename().string()));
}

TEST_F(CheckpointTest, SettingsAndDictsAreChecked) {
  expect_error(Errc::config, {"keep_last", "got 0"}, [&] { save(1, {.keep_last = 0}); });
  expect_error(Errc::config, {"depth"}, [&] { save(1, {.queue = {.depth = 0}}); });
  StateDict dict = state_.dict;
  dict[0].end = -1;
  expect_error(
      Errc::internal, {"weight:wte.weight"}, [&] { Writer({.root = root_}, dict, self_); });
}

TEST_F(CheckpointTest, WhatIsNotAWholeIsNotCommitted) {
  const auto try_save = [&](const StateDict& dict, std::string_view words) {
    create_directories(root_);
    expect_error(Errc::internal, {words}, [&] {
      Writer writer({.root = root_}, dict, self_);
      state_.save(writer, run_state(1));
    });
    EXPECT_THAT(names_in(root_), ElementsAre());
  };
  StateDict gap = state_.dict;
  gap[0].end -= 64;
  gap[0].numel -= 64;
  try_save(gap, "'weight:wte.weight' has 6208 elements, 6144 are stored");
  StateDict twice = state_.dict;
  twice.push_back(twice[0]);
  try_save(twice, "cannot be written");
}

TEST_F(CheckpointTest, RanksThatOverlapOrDisagreeCommitNothing) {
  const auto try_save = [&](const std::function<void(StateEntry&)>& spoil, std::string_view words) {
    LocalRanks(2).run([&](Communicator& ranks) {
      RankState mine(ranks.rank(), 2);
      if (ranks.rank() == 1) {
        spoil(*std::find_if(
            mine.dict.begin(), mine.dict.end(), [](const auto& entry) { return entry.begin > 0; }));
      }
      Writer writer({.root = root_}, mine.dict, ranks);
      expect_error(Errc::internal, {words}, [&] { mine.save(writer, run_state(1)); });
    });
    EXPECT_THAT(names_in(root_), ElementsAre());
  };
  try_save([](StateEntry& entry) { entry.begin -= 1; }, "must be stored once");
  try_save([](StateEntry& entry) { entry.shape = {401, 300}; }, "ranks disagree");
}

TEST_F(CheckpointTest, AMissingSnapshotIsNamed) {
  Writer writer({.root = root_}, state_.dict, self_);
  writer.begin(run_state(1));
  state_.snapshot(writer, 0);
  state_.snapshot(writer, 2);
  expect_error(Errc::internal, {"no snapshot brought 'weight:h.0.w'"}, [&] { writer.commit(); });
  writer.begin(run_state(2));
  state_.snapshot(writer, 0);
  state_.snapshot(writer, 0);
  expect_error(Errc::internal, {"comes twice"}, [&] { writer.commit(); });
}

TEST_F(CheckpointTest, ReaderRefusesWhatIsNotThere) {
  expect_error(Errc::format, {root_.string(), "MANIFEST.pb"}, [&] { Reader reader(root_); });
  const Reader reader(save(1));
  std::vector<std::byte> room(4);
  expect_error(Errc::format, {"'v:h.0.w'"}, [&] { reader.read("h.0.w", "v", 0, room); });
  expect_error(Errc::internal, {}, [&] { reader.read("h.0.w", "weight", 120'300, room); });
  EXPECT_EQ(newest(dir_ / "nowhere", {}), std::nullopt);
}

class DifferenceTest : public CheckpointTest {
 protected:
  /// A checkpoint of step 1 in a directory of its own, after `change`.
  std::filesystem::path variant(const std::function<void(RankState&, RunState&)>& change) {
    RankState state(0, 1);
    state.fill(1);
    RunState run = run_state(1);
    change(state, run);
    Writer writer({.root = dir_ / ("v" + std::to_string(count_++))}, state.dict, self_);
    writer.begin(run);
    for (int block = 0; block < 3; ++block) {
      state.snapshot(writer, block);
    }
    return writer.commit();
  }
  std::string difference(const std::function<void(RankState&, RunState&)>& change) {
    return first_difference(Reader(save(1)), Reader(variant(change))).value_or("none");
  }
  int count_ = 0;
};

TEST_F(DifferenceTest, OfContentsOnly) {
  EXPECT_EQ(difference([](RankState&, RunState&) {}), "none");
  EXPECT_EQ(difference([](RankState&, RunState& run) {
              run.seed = 1;
              run.settings["a"] = "b";
              run.numeric_environment.clear();
            }),
            "none");
  EXPECT_EQ(difference([](RankState&, RunState& run) { run.step = 2; }), "step: 1 and 2");
  EXPECT_EQ(difference([](RankState&, RunState& run) { run.samples = 9; }), "samples: 8 and 9");
  EXPECT_EQ(difference([](RankState&, RunState& run) { run.tokens = 9; }), "tokens: 1024 and 9");
  EXPECT_THAT(difference([](RankState&, RunState& run) { run.numeric_hash = "x"; }),
              HasSubstr("numeric_hash"));
}

TEST_F(DifferenceTest, NamesTheFirstTensorAndValue) {
  EXPECT_EQ(difference([](RankState& state, RunState&) {
              state.store.packs[{PackClass::weights, 1, -1}][4 * 120'299 + 3] ^= std::byte{1};
            }),
            "weight:h.0.w: value 120299 of 120300");
  EXPECT_EQ(difference([](RankState& state, RunState&) { state.dict.pop_back(); }),
            "weight:ln.empty: only in the first");
  EXPECT_EQ(difference([](RankState& state, RunState&) { state.dict[1].state = "n"; }),
            "m:wte.weight: only in the first");
  EXPECT_EQ(difference([](RankState& state, RunState&) { state.dict[1].state = "a"; }),
            "a:wte.weight: only in the second");
  EXPECT_EQ(difference([](RankState& state, RunState&) { state.dict[0].dtype = DType::i32; }),
            "weight:wte.weight: f32 (97, 64) and i32 (97, 64)");
  EXPECT_EQ(difference([](RankState& state, RunState&) {
              state.dict[0].shape = {64, 97};
            }),
            "weight:wte.weight: f32 (97, 64) and f32 (64, 97)");
}

}  // namespace
}  // namespace strata::checkpoint
