#pragma once
#include <cstdint>

#include "core/cpu/simd.h"
#include "core/parallel_for.h"
#include "core/runtime.h"

namespace strata {

/// Elements that one chunk of an elementwise rule covers: 16 KiB of floats, and the unit in which a
/// tensor may be cut between ranks (DESIGN section 2).
inline constexpr std::int64_t kChunk = 4096;

namespace cpu {
/// rule(i) for i in [begin, end), vectorised. The copy lets the compiler keep the rule's constants
/// and pointers in registers; that no order of i matters (see for_each) is told by the pragma.
template <class Rule>
void run_rule(const Rule& shared, std::int64_t begin, std::int64_t end) {
  simd([&] {
    const Rule rule = shared;
#pragma GCC ivdep
    for (std::int64_t i = begin; i < end; ++i) {
      rule(i);
    }
  });
}
}  // namespace cpu

/// Calls rule(i) for i in [0, n) where the stream's device is. A rule is single-source: it uses
/// + - * / sqrt, fma_ and core/math.h only and never depends on the order of i, so its bytes agree
/// over threads, instruction sets and devices.
template <class Rule>
void for_each(Stream& stream, std::int64_t n, const Rule& rule) {
  if (stream.lane() == Lane::compute) {
    parallel_for(
        n, kChunk, [&](std::int64_t begin, std::int64_t end) { cpu::run_rule(rule, begin, end); });
  } else {  // another lane is one thread and never opens a team
    stream.enqueue([n, rule] { cpu::run_rule(rule, 0, n); });
  }
}

}  // namespace strata
