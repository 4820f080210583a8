// Rates of what a processor does between transfers, against what copying the same memory reaches
// in the same second.
#include <algorithm>
#include <chrono>
#include <functional>

#include <gtest/gtest.h>

#include "core/parallel_for.h"
#include "launch/update_bench.h"

namespace strata::launch {
namespace {

double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Of the work's rate and a copy's: the best of some, since others use the machine too.
double fraction_of_copy(double gigabytes, double wanted, const std::function<void()>& work) {
  const Copy copy;
  copy.run();
  work();
  double best = 0;
  for (int attempt = 0; attempt < 40 && best < wanted; ++attempt) {
    const double before = seconds([&] { copy.run(); });
    const double taken = seconds(work);
    const double after = seconds([&] { copy.run(); });
    const double copied = copy.gigabytes() / std::min(before, after);
    best = std::max(best, gigabytes / taken / copied);
  }
  return best;
}

class Rates : public testing::Test {
 protected:
  Rates() { set_thread_count(2); }
  ~Rates() override { set_thread_count(before_); }

 private:
  const int before_ = thread_count();
};

TEST_F(Rates, A25AnUpdateReachesMostOfACopySlow) {
  UpdateBench bench("adamw", {}, 32'000'000, DType::f32);
  bench.norm();
  EXPECT_GE(
      fraction_of_copy(1e-9 * static_cast<double>(bench.bytes()), 0.7, [&] { bench.update(); }),
      0.7);
}

TEST_F(Rates, A7ANormReachesMostOfACopySlow) {
  constexpr std::int64_t kNumel = 64'000'000;
  UpdateBench bench("adamw", {}, kNumel, DType::f32);
  EXPECT_GE(fraction_of_copy(4e-9 * static_cast<double>(kNumel), 0.6, [&] { bench.norm(); }), 0.6);
}

}  // namespace
}  // namespace strata::launch
