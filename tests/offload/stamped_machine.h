#pragma once
#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <thread>

#include <gtest/gtest.h>

#include "core/executor.h"

namespace strata::offload::tests {

/// Rooms that compute nothing: an instruction finds in its packs what was last written there,
/// leaves new bytes in those that it writes, and takes as long as it is told, asleep.
class StampedMachine final : public BlockRunner, public Collectives, public Updater, public Loader {
 public:
  /// What the next `decide` says.
  Outcome outcome = Outcome::clip_is_one;
  std::function<double(const Instruction&)> seconds;  // absent: no time
  bool checks = true;                                 // of what is read
  std::int64_t uses = 0;                              // of packs, so far

  /// Before each run of a program, whose instructions it watches.
  void run(Executor& executor, StepScalars& scalars) {
    program_ = &executor.program();
    decided_ = false;
    executor.on_instruction([this](int index) { commit(index); });
    executor.run(scalars);
    if (program_->kind == ProgramKind::train || program_->kind == ProgramKind::flush) {
      scalars.before.outcome =
          program_->kind == ProgramKind::train ? scalars.outcome : Outcome::skip;
    }
  }

  void forward(const Instruction& i, const Held& packs, StepScalars&) override { obey(i, packs); }
  void recompute(const Instruction& i, const Held& packs, StepScalars&) override { obey(i, packs); }
  void backward(const Instruction& i, const Held& packs, StepScalars&) override { obey(i, packs); }
  void norm(const Instruction& i, const Held& packs, StepScalars&) override { obey(i, packs); }
  void stats(const Instruction& i, const Held& packs, StepScalars&) override { obey(i, packs); }
  void update(const Instruction& i, const Held& packs, StepScalars&) override { obey(i, packs); }
  void load(const Instruction& i, const Held& packs) override { obey(i, packs); }
  void gather(const Instruction& i, const Held& packs) override { obey(i, packs); }
  void merge(const Instruction& i, const Held& packs) override { obey(i, packs); }
  void reduce(const Instruction& i, const Held& packs) override { obey(i, packs); }
  void publish(const Instruction& i, const Held& packs) override { obey(i, packs); }
  void send(const Instruction& i, const Held& packs) override { obey(i, packs); }
  void recv(const Instruction& i, const Held& packs) override { obey(i, packs); }
  void decide_block(int, StepScalars& scalars) override { decide(scalars); }
  void fold_stats(StepScalars&) override {}
  void decide(StepScalars& scalars) override {
    scalars.outcome = outcome;
    decided_ = true;
  }

 private:
  static constexpr std::size_t kPage = 4096;

  void obey(const Instruction& i, const Held& packs) {
    const auto end =
        std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds ? seconds(i) : 0);
    const Effects e = effects(*program_, i, decided_);
    const auto begins = [&](PackKey key) {
      const bool sum = key.cls == PackClass::grads || key.cls == PackClass::borrowed_grads;
      return i.op == Op::load || std::ranges::count(e.creates, key) > 0 ||
             (sum && i.accumulate == Accumulate::overwrite);
    };
    for (const auto* const keys : {&e.reads, &e.writes, &e.adds_to}) {
      for (const PackKey key : *keys) {
        if (!begins(key)) {
          check(i, key, packs[key]);
        }
      }
    }
    for (const auto* const keys : {&e.creates, &e.writes, &e.adds_to}) {
      for (const PackKey key : *keys) {
        write(key, packs[key]);
      }
    }
    if (seconds) {
      std::this_thread::sleep_until(end);
    }
  }
  void check(const Instruction& i, PackKey key, std::span<const std::byte> bytes) {
    ++uses;
    if (!checks || key.cls == PackClass::workspace) {
      return;
    }
    for (std::size_t at = 0; at < bytes.size(); at += kPage) {
      std::uint64_t found = 0;
      std::memcpy(&found, &bytes[at], sizeof found);
      ASSERT_EQ(found, latest_[key] + at)
          << to_string(i.op) << " of block " << i.block << " reads " << to_string(key);
    }
  }
  void write(PackKey key, std::span<std::byte> bytes) {
    ++uses;
    const std::uint64_t stamp = latest_[key] = ++stamps_ << 32;
    for (std::size_t at = 0; at < bytes.size(); at += kPage) {
      const std::uint64_t value = stamp + at;
      std::memcpy(&bytes[at], &value, sizeof value);
    }
  }
  /// The store alone is told of it.
  void commit(int index) {
    const Instruction& i = program_->step[static_cast<std::size_t>(index)];
    if (i.op != Op::commit || !decided_ || !runs(i.when, outcome)) {
      return;
    }
    for (const PackKey key : effects(*program_, i, decided_).ends) {
      for (const auto& [next, current] : {std::pair{PackClass::weights_next, PackClass::weights},
                                          {PackClass::state_next, PackClass::state}}) {
        if (key.cls == next) {
          latest_[{current, key.block}] = latest_[key];
        }
      }
    }
  }

  const Program* program_ = nullptr;
  bool decided_ = false;
  std::map<PackKey, std::uint64_t> latest_;
  std::uint64_t stamps_ = 0;
};

}  // namespace strata::offload::tests
