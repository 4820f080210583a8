#include "core/normal.h"

#include <array>
#include <cmath>
#include <numbers>

#include "core/for_each.h"

namespace strata {
namespace {

/// Four standard normal numbers from four words.
std::array<double, 4> normals(const std::array<std::uint32_t, 4>& words) {
  std::array<double, 4> z{};
  for (std::size_t i = 0; i < 4; i += 2) {
    const double u = (static_cast<double>(words[i]) + 1.0) * 0x1p-32;  // (0, 1]: has a logarithm
    const double angle = 2.0 * std::numbers::pi * static_cast<double>(words[i + 1]) * 0x1p-32;
    const double radius = std::sqrt(-2.0 * std::log(u));
    z[i] = radius * std::cos(angle);
    z[i + 1] = radius * std::sin(angle);
  }
  return z;
}

}  // namespace

void fill_normal(
    std::span<float> to, const RandomKey& key, std::int64_t first, double mean, double deviation) {
  parallel_for(static_cast<std::int64_t>(to.size()), kChunk, [&](std::int64_t b, std::int64_t e) {
    std::int64_t group = -1;
    std::array<double, 4> z{};
    for (std::int64_t i = b; i < e; ++i) {
      const std::int64_t element = first + i;
      if (element / 4 != group) {
        group = element / 4;
        z = normals(key.words(static_cast<std::uint64_t>(group)));
      }
      to[static_cast<std::size_t>(i)] =
          static_cast<float>(mean + deviation * z[static_cast<std::size_t>(element % 4)]);
    }
  });
}

}  // namespace strata
