#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/philox.h"
#include "core/tensor.h"

namespace strata {

/// How values that backward reads again are kept. All but `exact` lose digits: they need the user's
/// consent (numerics.allow_lossy). A group is so many consecutive elements of the row-major value;
/// the last may be short. After Evans and Aamodt, AC-GC, NeurIPS 2021; Chen et al., ActNN, ICML
/// 2021; Xi et al., COAT, ICLR 2025.
enum class ActivationCodec : std::uint8_t {
  exact,  // as they are
  fp8,    // E4M3 times a power of two, of 128: 1.03 bytes an element, to nearest even
  int8,   // -127 ... 127 times max|x| / 127, of 256: 1.02 bytes, to nearest
  int4,   // FourBitRange of core/compress/error_feedback.h, of 64: 0.56 bytes, right on average
};
std::string_view to_string(ActivationCodec codec);
inline bool is_lossy(ActivationCodec codec) {
  return codec != ActivationCodec::exact;
}

/// Elements of a group. Not of `exact`.
std::int64_t group_numel(ActivationCodec codec);
/// Bytes of the codes of so many elements, scales included. Not of `exact`.
std::int64_t coded_bytes(ActivationCodec codec, std::int64_t numel);

/// The most by which an element x of a group comes back wrong, where `least` and `most` are the
/// group's, A = max(|least|, |most|), and values are stored in `dtype`:
///   fp8   max(|x| / 16, A / 2^10 / 224)
///   int8  A / 253, where 254 would be half a step
///   int4  (most - least + (|least| + |most|) / 128) / 15, a step between ends rounded to bf16
/// each plus |x'| / 2^8 where a decoded x' is rounded to bf16 (fp8 never is), and 2^-100.
double coding_error(ActivationCodec codec, DType dtype, double x, double least, double most);

// A group that holds a NaN, an infinity or a magnitude of 2^126 or more comes back as NaN, all of
// it: what is not finite never becomes finite. Codes and decoded values are the same on every
// number of threads and instruction set. CPU, compute stream; no memory is taken.

/// Writes coded_bytes() for x, f32 or bf16. int4 rounds element i by draw `first` + i of `key`; the
/// others do not read them.
void encode_activation(std::span<std::byte> codes,
                       const Tensor& x,
                       ActivationCodec codec,
                       const RandomKey& key,
                       std::int64_t first);
/// y: shape and dtype of what was encoded.
void decode_activation(const Tensor& y, std::span<const std::byte> codes, ActivationCodec codec);

}  // namespace strata
