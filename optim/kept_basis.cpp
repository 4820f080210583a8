#include "optim/kept_basis.h"

#include <algorithm>
#include <cmath>

#include "core/bf16.h"
#include "core/quant.h"

namespace strata::optim {
namespace {

constexpr std::int64_t kGroup = 256;
constexpr int kBits = 4;

int nibble(const std::uint8_t* codes, std::int64_t i) {
  return (codes[i / 2] >> (i % 2 == 0 ? 4 : 0)) & 15;
}

}  // namespace

void add_basis_fields(StateLayout& layout, BasisFormat format, std::int64_t numel) {
  const auto add = [&](const char* name, DType dtype, std::int64_t count) {
    layout.push_back({name, dtype, Granularity::whole(), count});
  };
  switch (format) {
    case BasisFormat::f32:
      return add("basis", DType::f32, numel);
    case BasisFormat::bf16:
      return add("basis", DType::bf16, numel);
    case BasisFormat::int4:
      add("basis.codes", DType::u8, (numel + 1) / 2);
      return add("basis.affine", DType::f32, 2 * ((numel + kGroup - 1) / kGroup));
  }
}

void store_basis(StateViews& state, BasisFormat format, std::span<const float> values) {
  const auto numel = static_cast<std::int64_t>(values.size());
  switch (format) {
    case BasisFormat::f32:
      std::copy(values.begin(), values.end(), state["basis"].data<float>());
      return;
    case BasisFormat::bf16:
      std::transform(values.begin(), values.end(), state["basis"].data<bf16>(), to_bf16);
      return;
    case BasisFormat::int4:
      break;
  }
  auto* const codes = state["basis.codes"].data<std::uint8_t>();
  float* const affine = state["basis.affine"].data<float>();
  std::fill(codes, codes + (numel + 1) / 2, std::uint8_t{0});
  for (std::int64_t begin = 0; begin < numel; begin += kGroup) {
    const std::int64_t end = std::min(numel, begin + kGroup);
    const auto [least, most] = std::minmax_element(values.begin() + begin, values.begin() + end);
    const quant::Affine of = quant::Affine::of(*least, *most, kBits);
    affine[begin / kGroup * 2] = of.scale;
    affine[begin / kGroup * 2 + 1] = of.zero;
    for (std::int64_t i = begin; i < end; ++i) {
      const int code = of.encode(values[static_cast<std::size_t>(i)]);
      codes[i / 2] = static_cast<std::uint8_t>(codes[i / 2] | code << (i % 2 == 0 ? 4 : 0));
    }
  }
}

void load_basis(StateViews& state, BasisFormat format, std::span<float> values) {
  switch (format) {
    case BasisFormat::f32: {
      const float* const from = state["basis"].data<float>();
      std::copy(from, from + values.size(), values.begin());
      return;
    }
    case BasisFormat::bf16: {
      const bf16* const from = state["basis"].data<bf16>();
      std::transform(from, from + values.size(), values.begin(), to_float);
      return;
    }
    case BasisFormat::int4:
      break;
  }
  const auto* const codes = state["basis.codes"].data<std::uint8_t>();
  const float* const affine = state["basis.affine"].data<float>();
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i);
    const quant::Affine of{affine[at / kGroup * 2], affine[at / kGroup * 2 + 1], (1 << kBits) - 1};
    values[i] = of.decode(nibble(codes, at));
  }
}

void LazyRefresh::add_field(StateLayout& layout, std::int64_t short_side) {
  layout.push_back({"lazy",
                    DType::f32,
                    Granularity::whole(),
                    static_cast<std::int64_t>(kDirection) + short_side});
}

LazyRefresh::LazyRefresh(StateViews& state, std::int64_t first_gap)
    : slots_(state["lazy"].data<float>()) {
  if (slots_[kGap] == 0.f) {
    slots_[kGap] = static_cast<float>(first_gap);
  }
}

std::int64_t LazyRefresh::last() const {
  return static_cast<std::int64_t>(slots_[kLast]) - 1;
}

bool LazyRefresh::due(std::int64_t done) const {
  return last() < 0 || done >= last() + static_cast<std::int64_t>(slots_[kGap]);
}

void LazyRefresh::refreshed(std::int64_t done,
                            std::span<const float> direction,
                            double similarity) {
  float* const before = slots_ + kDirection;
  if (last() >= 0) {
    double along = 0.0, square = 0.0, square_before = 0.0;
    for (std::size_t i = 0; i < direction.size(); ++i) {
      const double now = direction[i], then = before[i];
      along += now * then;
      square += now * now;
      square_before += then * then;
    }
    const double cosine = std::abs(along) / (std::sqrt(square) * std::sqrt(square_before));
    float* const queue = slots_ + kFirstSimilarity;
    const auto count = static_cast<std::int64_t>(slots_[kCount]);
    if (count == kQueue) {
      std::copy(queue + 1, queue + kQueue, queue);
    } else {
      slots_[kCount] += 1.f;
    }
    queue[std::min(count, kQueue - 1)] = static_cast<float>(cosine);
    double sum = 0.0;
    for (std::int64_t i = 0; i < kQueue; ++i) {
      sum += queue[i];
    }
    if (slots_[kCount] == static_cast<float>(kQueue) &&
        sum / static_cast<double>(kQueue) >= similarity) {
      slots_[kGap] *= 2.f;
    }
  }
  slots_[kLast] = static_cast<float>(done + 1);
  std::copy(direction.begin(), direction.end(), before);
}

}  // namespace strata::optim
