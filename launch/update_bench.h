#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "core/executor.h"
#include "launch/bench.h"
#include "offload/tiered_store.h"
#include "optim/updater.h"

namespace strata::launch {

/// A block of parameters under a method, with its packs in memory as in training.
class UpdateBench {
 public:
  UpdateBench(const std::string& method,
              std::span<const optim::Setting> settings,
              std::int64_t params,
              DType dtype);
  void norm() { updater_.norm({.op = Op::norm, .block = 0}, packs_, scalars_); }
  void update();
  std::int64_t bytes() const { return bytes_; }

 private:
  UpdateBench(std::shared_ptr<optim::Optimizer> method, const BlockSpec& spec, DType dtype);
  offload::Plan plan() const;

  optim::OptimizerUpdater updater_;
  std::int64_t bytes_;
  Ledger ledger_;
  std::unique_ptr<offload::TieredStore> store_;
  Held packs_;
  StepScalars scalars_;
};

/// Of as many bytes, on all threads, past the caches. Both begin at multiples of 16 bytes.
void stream_copy(std::span<std::byte> to, std::span<const std::byte> from);

/// Two arrays far larger than a cache, copied by stores that go past it: the least traffic that
/// moves so many bytes.
class Copy {
 public:
  static constexpr std::int64_t kBytes = std::int64_t{256} << 20;  // of each of two arrays
  Copy() : from_(kNumel, DType::f32), to_(kNumel, DType::f32) {}
  double gigabytes() const { return 2e-9 * static_cast<double>(kBytes); }
  void run() const;

 private:
  static constexpr std::int64_t kNumel = kBytes / 4;
  RandomMemory from_, to_;
};

}  // namespace strata::launch
