#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "core/param.h"
#include "core/philox.h"
#include "core/quant.h"
#include "optim/tile.h"

namespace strata::optim {

/// How a moment is kept between steps.
enum class StateCodec : std::uint8_t {
  f32,
  bf16,      // nearest; second moments stochastically, since they move by less than half an ulp
  dynamic8,  // block-wise dynamic 8-bit code, block 256
  dynamic4,  // signed: dynamic 4-bit code, positive: linear without zero; block 128
  fp8,       // E4M3 with dynamic range expansion, groups of 128
};
constexpr std::array<std::string_view, 5> choices(StateCodec) {
  return {"f32", "bf16", "8bit", "4bit", "fp8"};
}

/// A value that a rule keeps for every element of what it works on.
struct Moment {
  std::string_view name;
  bool positive = false;  // never below zero: codes without a sign
};

/// Appends the fields of a moment. `numel` < 0: one value for each element of the parameter, cut
/// with it; else that many, kept whole.
void add_moment_fields(StateLayout& layout,
                       StateCodec codec,
                       const Moment& moment,
                       std::int64_t numel = -1);

/// Elements that are coded together: a tensor may be cut at multiples of it.
std::int64_t codec_block(StateCodec codec);

/// The moment of one slice in its codec, tile by tile.
class CodedMoment {
 public:
  CodedMoment() = default;
  /// `key`: for stochastic rounding; `first`: the slice's first element in what is coded; `zero`:
  /// what the 8-bit code of zero stands for in a second moment.
  CodedMoment(StateCodec codec,
              const Moment& moment,
              StateViews& state,
              const RandomKey& key,
              std::int64_t first,
              quant::ZeroCode zero = quant::ZeroCode::half_least);
  /// What a rule may change in place instead of load and store; nothing where it is coded.
  Tensor in_place() const { return codec_ == StateCodec::f32 ? values_ : Tensor(); }
  /// Elements [begin, begin + n), begin a multiple of kTile.
  void load(std::int64_t begin, std::int64_t n, float* to) const;
  void store(std::int64_t begin, std::int64_t n, const float* from) const;

 private:
  StateCodec codec_ = StateCodec::f32;
  bool positive_ = false;
  quant::ZeroCode zero_ = quant::ZeroCode::half_least;
  Tensor values_;  // or codes
  Tensor scales_;
  RandomKey key_;
  std::int64_t first_ = 0;
};

}  // namespace strata::optim
