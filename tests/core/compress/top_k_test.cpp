#include "core/compress/top_k.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "core/cpu/simd.h"
#include "core/parallel_for.h"
#include "core/philox.h"
#include "tests/support/errors.h"

namespace strata {
namespace {

using Indices = std::vector<std::int16_t>;

/// Few distinct values make ties.
std::vector<float> values(std::size_t n, std::uint32_t distinct) {
  const RandomKey key{.seed = 4, .use = RandomUse::sampling};
  std::vector<float> v(n);
  for (std::size_t i = 0; i < n; ++i) {
    const auto words = key.words(i);
    const float size = static_cast<float>(words[0] % distinct) / 7.f;
    v[i] = words[1] % 2 == 0 ? size : -size;
  }
  return v;
}

/// By a stable sort: of equals the first stay in front.
Indices expected(const std::vector<float>& v, const TopK& top) {
  Indices all;
  for (std::size_t from = 0; from < v.size(); from += static_cast<std::size_t>(top.block)) {
    const std::size_t n = std::min(v.size() - from, static_cast<std::size_t>(top.block));
    Indices order(n);
    std::iota(order.begin(), order.end(), std::int16_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::int16_t i, std::int16_t j) {
      return std::abs(v[from + static_cast<std::size_t>(i)]) >
             std::abs(v[from + static_cast<std::size_t>(j)]);
    });
    order.resize(static_cast<std::size_t>(std::ceil(top.density * static_cast<double>(n))));
    std::sort(order.begin(), order.end());
    all.insert(all.end(), order.begin(), order.end());
  }
  return all;
}

Indices found(const std::vector<float>& v, const TopK& top) {
  const std::int64_t total = top.total(static_cast<std::int64_t>(v.size()));
  Indices indices(static_cast<std::size_t>(total), std::int16_t{-1});
  top_k(indices, v, top, compute_stream());
  return indices;
}

TEST(TopK, AgreesWithASort) {
  for (const std::uint32_t distinct : {1u, 3u, 50u, 100000000u}) {
    for (const std::size_t n : {1u, 2u, 15u, 17u, 100u, 4096u, 4097u, 9000u}) {
      for (const TopK& top : {TopK{},
                              TopK{1, 1.0},
                              TopK{7, .3},
                              TopK{64, .999},
                              TopK{100, 1.0},
                              TopK{4096, 1e-6},
                              TopK{TopK::kLargestBlock, .05}}) {
        const std::vector<float> v = values(n, distinct);
        ASSERT_EQ(found(v, top), expected(v, top))
            << n << " block " << top.block << " density " << top.density << " of " << distinct;
      }
    }
  }
}

TEST(TopK, KnowsTheSmallestAndTheLargestNumbers) {
  const std::vector<float> v{0.f, -0.f, 1e-45f, -3e-45f, 3e38f, -INFINITY, 1e-38f, 0.f};
  EXPECT_EQ(found(v, {8, .25}), (Indices{4, 5}));
  EXPECT_EQ(found(v, {8, .5}), (Indices{3, 4, 5, 6}));
  EXPECT_EQ(found(v, {8, .75}), (Indices{0, 2, 3, 4, 5, 6}));
  EXPECT_EQ(found(std::vector<float>(8, 0.f), {8, .25}), (Indices{0, 1}));
}

TEST(TopK, CountsWhatItKeeps) {
  const TopK top;
  EXPECT_EQ(top.kept(4096), 41);
  EXPECT_EQ(top.kept(1), 1);
  EXPECT_EQ(top.kept(0), 0);
  EXPECT_EQ(top.kept(100), 1);
  EXPECT_EQ(top.kept(101), 2);
  EXPECT_EQ(top.total(4096 * 3 + 101), 3 * 41 + 2);
  EXPECT_EQ(top.total(4096 * 3), 3 * 41);
}

TEST(TopK, BitsDependOnNeitherThreadsNorInstructions) {
  const std::vector<float> v = values(50000, 100000000u);
  const Indices want = expected(v, {});
  const int threads = thread_count();
  const cpu::IsaLevel best = cpu::isa_level();
  for (const int t : {1, 2, 3}) {
    set_thread_count(t);
    EXPECT_EQ(found(v, {}), want);
  }
  set_thread_count(threads);
  cpu::force_isa_level(cpu::IsaLevel::base);
  EXPECT_EQ(found(v, {}), want);
  cpu::force_isa_level(best);
}

TEST(TopK, RunsOnOtherLanes) {
  const std::vector<float> v = values(9000, 1000u);
  Runtime& cpu = runtime(DeviceKind::cpu);
  Stream& lane = cpu.stream(Lane::update);
  const TopK top;
  Indices indices(static_cast<std::size_t>(top.total(9000)));
  top_k(indices, v, top, lane);
  cpu.wait_host(cpu.record(lane));
  EXPECT_EQ(indices, expected(v, top));
}

TEST(TopK, RefusesBadSettings) {
  tests::expect_error(Errc::config, {"40000", "use 32768"}, [] { TopK{40000, .1}.validate(); });
  tests::expect_error(Errc::config, {"got 0", "use 1"}, [] { TopK{0, .1}.validate(); });
  tests::expect_error(Errc::config, {"1.5", "use 1"}, [] { TopK{4096, 1.5}.validate(); });
  tests::expect_error(Errc::config, {"density", "above 0"}, [] { TopK{4096, 0.0}.validate(); });
  tests::expect_error(Errc::config, {"density"}, [] { TopK{4096, std::nan("")}.validate(); });
  TopK{}.validate();
}

}  // namespace
}  // namespace strata
