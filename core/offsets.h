#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace strata {

/// Half-open interval of some order of events.
struct Interval {
  std::int64_t begin = 0, end = 0;
};
/// A buffer and when its bytes matter; it keeps one address through all of its intervals.
struct Lifetime {
  std::int64_t size_bytes = 0;
  std::vector<Interval> live;
};
struct Offsets {
  std::vector<std::int64_t> at;  // one per lifetime, multiples of the alignment
  std::int64_t total_bytes = 0;
};
/// Static placement: buffers whose lifetimes overlap never share bytes. First fit, the largest
/// first; then again and again with what ended highest earlier in the order (squeaky wheel
/// optimization: Joslin and Clements 1999), and some swapped where that leads nowhere, until the
/// bytes alive at the fullest moment are enough or a fixed amount of work is done. Deterministic.
/// Used for activations inside a block and for packs inside a step.
Offsets assign_offsets(std::span<const Lifetime> lifetimes, std::int64_t alignment = 64);

}  // namespace strata
