#pragma once
#include <cstdint>

namespace strata::cpu {

/// Instruction-set levels a kernel body is compiled for in one translation unit.
enum class IsaLevel : std::uint8_t { base, avx2, avx512 };
const char* to_string(IsaLevel level);
/// Best level of this machine, or the lower one that was forced (tests,
/// STRATA_ISA=base|avx2|avx512).
IsaLevel isa_level();
void force_isa_level(IsaLevel level);
/// Whether kernels may use AVX-512's dot products of bf16 pairs: the machine has them and the level
/// is avx512. Their results differ in bits from widened f32, so that they are no level of their
/// own.
bool has_bf16_dot();

#define STRATA_TARGET_AVX2 "avx2,fma,bmi,bmi2,lzcnt,f16c"
#define STRATA_TARGET_AVX512 \
  STRATA_TARGET_AVX2 ",avx512f,avx512bw,avx512dq,avx512vl,avx512cd,prefer-vector-width=512"

// The attribute makes the compiler vectorise the inlined body for that level; `flatten` inlines all
// of it. No per-file flags, so nothing inline can leak into baseline code through the linker.
template <class Body>
[[gnu::target(STRATA_TARGET_AVX512), gnu::flatten, gnu::noinline]] void run_avx512(Body& body) {
  body();
}
template <class Body>
[[gnu::target(STRATA_TARGET_AVX2), gnu::flatten, gnu::noinline]] void run_avx2(Body& body) {
  body();
}
template <class Body>
[[gnu::flatten, gnu::noinline]] void run_base(Body& body) {
  body();
}

/// Runs body(), compiled for the current level. The body is a loop over contiguous data without
/// calls that cannot be inlined. Sums use fixed lanes (float acc[16]), so that all levels give the
/// same bits.
template <class Body>
void simd(Body&& body) {
  switch (isa_level()) {
    case IsaLevel::avx512:
      return run_avx512(body);
    case IsaLevel::avx2:
      return run_avx2(body);
    case IsaLevel::base:
      return run_base(body);
  }
}

}  // namespace strata::cpu
