#pragma once
#include <cstdint>
#include <span>

#include "core/param.h"
#include "optim/subspace.h"

namespace strata::optim {

/// The basis of a subspace as it is kept between refreshes: f32, bf16, or int4 codes with scale and
/// zero point in groups of 256.
void add_basis_fields(StateLayout& layout, BasisFormat format, std::int64_t numel);
void store_basis(StateViews& state, BasisFormat format, std::span<const float> values);
void load_basis(StateViews& state, BasisFormat format, std::span<float> values);

/// When a basis is refreshed whose gap doubles while its first direction stays the same: Zhang et
/// al., Q-GaLore, 2024. The gap never shrinks and the sign of a direction does not count. A view of
/// the field "lazy".
class LazyRefresh {
 public:
  static void add_field(StateLayout& layout, std::int64_t short_side);
  LazyRefresh(StateViews& state, std::int64_t first_gap);
  /// Steps done when the present basis was made; -1: there is none.
  std::int64_t last() const;
  bool due(std::int64_t done) const;
  /// Notes a refresh after `done` steps, with the new first direction in full precision.
  void refreshed(std::int64_t done, std::span<const float> direction, double similarity);

 private:
  enum Slot : std::size_t { kGap, kLast, kCount, kFirstSimilarity, kDirection = 8 };
  static constexpr std::int64_t kQueue = 5;
  float* slots_;
};

}  // namespace strata::optim
