#pragma once
#include <cstddef>
#include <cstdint>

#include "core/bf16.h"

namespace strata::cpu {

// The parts of a product that only AVX-512's intrinsics express: a block of C that stays in the
// registers, and panels of A and B laid out as that block reads them (Goto and van de Geijn,
// Anatomy of high-performance matrix multiplication, 2008). Callers have asked isa_level().

/// A block of C is at most 14 rows by 32 columns: 28 of 32 registers.
inline constexpr std::int64_t kPanelRows = 14, kPanelColumns = 32;
/// Panels are of words: a float, or two bf16 that are neighbours in k, which one instruction
/// multiplies and adds (callers have asked has_bf16_dot()). Depth is counted in words.
enum class PanelWord : std::uint8_t { f32, bf16_pair };
inline constexpr std::int64_t kWordBytes = 4;
/// The depth of one panel: at most this, in chunks of 16; what is left of the last chunk is zero.
inline constexpr std::int64_t kPanelDepth = 384, kPanelChunk = 16;

constexpr std::int64_t panel_chunks(std::int64_t depth) {
  return (depth + kPanelChunk - 1) / kPanelChunk;
}

/// Rows of A lie end to end with a pitch that spreads them over the sets of the first cache;
/// columns of A, which are rows of A^T, follow each other closely.
inline constexpr std::int64_t kPanelPitch = kPanelDepth + kPanelChunk;
inline constexpr std::int64_t kPanelFloatsOfA = kPanelRows * kPanelPitch + kPanelChunk;
constexpr std::int64_t panel_floats_of_b(std::int64_t depth) {
  return panel_chunks(depth) * kPanelChunk * kPanelColumns;
}

/// A piece of A or B in memory. `along`: whether neighbours in memory are neighbours in k; pairs of
/// B that lie along k begin at whole words. extent: rows of A, at most kPanelRows, or columns of B,
/// at most kPanelColumns.
struct PanelSource {
  const std::byte* first = nullptr;
  std::int64_t pitch_bytes = 0;
  bool along = false;
  PanelWord word = PanelWord::f32;
  std::int64_t extent = 0, depth = 0;
  bool half = false;  // the last pair has no second element
  /// Pairs whose elements lie in two rows.
  bool across() const { return word == PanelWord::bf16_pair && !along; }
};

/// Without what is left of the last one, half a pair included.
constexpr std::int64_t whole_panel_chunks(const PanelSource& from) {
  return (from.depth - (from.half ? 1 : 0)) / kPanelChunk;
}

void pack_panel_of_b(float* to, const PanelSource& from);
/// Chunks [begin, end) of k; past the last whole chunk, zeros.
void pack_panel_of_a(float* to, const PanelSource& from, std::int64_t begin, std::int64_t end);

/// lanes (kPanelRows, 8) += the squares of a panel of A that lies along k: element k to lane k % 8,
/// in order. Of rows that the panel does not have they hold anything.
void add_squares_of_a(double* lanes, const float* panel, std::int64_t rows, std::int64_t depth);
/// sums (columns) += the squares of a panel of B, in order of k.
void add_squares_of_b(double* sums, const float* panel, std::int64_t columns, std::int64_t depth);

/// What a call does beside its product, so that neither memory nor the second cache is waited for:
/// a share of the next panel of A is copied in rows of `vectors`, the share after it fetched in
/// rows of `lines`.
struct PanelShare {
  const std::byte* from = nullptr;
  float* to = nullptr;
  const std::byte* fetched = nullptr;
  std::int64_t from_pitch = 0, second = 0;  // bytes; of pairs in two rows: to the second one
  std::int64_t to_pitch = 0, copies = 0, fetches = 0, vectors = 0, lines = 0;
  std::uint16_t mask = 0xffff;
};
/// The whole chunks in [begin, end) of `next` are copied, those in [then_begin, then_end) of `then`
/// fetched. Both come from the same matrix.
PanelShare panel_share(float* to,
                       const PanelSource& next,
                       std::int64_t begin,
                       std::int64_t end,
                       const PanelSource& then,
                       std::int64_t then_begin,
                       std::int64_t then_end);

struct PanelCall {
  PanelWord word;
  const float *a, *b;  // packed
  float* c;
  std::int64_t ldc, rows, columns, depth;
  bool along;             // as in the source of A
  bool add;               // to C
  const std::byte* bias;  // or none: of the columns, of the type of A and B
  // Of pairs: where the sum goes, rounded, instead of C, and whether to what is there.
  bf16* rounded = nullptr;
  std::int64_t ld_rounded = 0;
  bool add_rounded = false;
  PanelShare share = {};
  const PanelSource* next_b = nullptr;  // fetched instead of a share
};
/// C (rows, columns) = or += A * B, plus the bias. An element is one chain from zero in order of k,
/// of fma or of dot products of pairs.
void multiply_panels(const PanelCall& call);

}  // namespace strata::cpu
