#pragma once
#include <cstdint>

#include "core/compress/top_k.h"
#include "core/for_each.h"
#include "optim/registry.h"

namespace strata::optim {

/// How what a sparse gradient left out is kept.
enum class ErrorFormat : std::uint8_t { f32, bf16, four_bit };
constexpr std::array<std::string_view, 3> choices(ErrorFormat) {
  return {"f32", "bf16", "4bit"};
}

/// The last sparse gradients of a tensor: of each, the largest elements of every block of 4096,
/// what they left out being added to the next one. Blocks know nothing of each other, so a tensor
/// may be cut between them.
class SparseWindow {
 public:
  static constexpr std::int64_t kBlock = kChunk;
  struct Settings {
    std::int64_t rows = 10;
    double density = 0.01;
    ErrorFormat error = ErrorFormat::four_bit;
    bool stochastic_error = false;  // of four bits
  };
  /// One block of one slice, in the state.
  struct Block {
    std::int64_t begin = 0, n = 0, kept = 0;
    std::int16_t* indices = nullptr;  // (rows, kept)
    bf16* values = nullptr;
  };

  explicit SparseWindow(const Settings& settings)
      : settings_(settings), top_{kBlock, settings.density} {}
  std::int64_t rows() const { return settings_.rows; }
  /// Rows that step t, from 1, finds filled, its own included, and which one is its own.
  std::int64_t filled(std::int64_t t) const { return t < rows() ? t : rows(); }
  std::int64_t row_of(std::int64_t t) const { return (t - 1) % rows(); }
  std::int64_t age(std::int64_t row, std::int64_t t) const {
    return (row_of(t) - row + rows()) % rows();
  }
  void add_fields(const ParamInfo& param, StateLayout& layout) const;

  /// Calls body(block) for every block of a slice of `numel` elements, on the threads of the team.
  template <class Body>
  void for_each_block(StateViews& state, std::int64_t numel, const Body& body) const {
    auto* const indices = state["window.indices"].data<std::int16_t>();
    bf16* const values = state["window.values"].data<bf16>();
    parallel_for(numel, kBlock, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t begin = first; begin < last; begin += kBlock) {
        body(block_at(begin, last - begin < kBlock ? last - begin : kBlock, indices, values));
      }
    });
  }
  /// The same, one after the other on the calling thread.
  template <class Body>
  void for_each_block_in_order(StateViews& state, std::int64_t numel, const Body& body) const {
    auto* const indices = state["window.indices"].data<std::int16_t>();
    bf16* const values = state["window.values"].data<bf16>();
    for (std::int64_t begin = 0; begin < numel; begin += kBlock) {
      body(block_at(begin, numel - begin < kBlock ? numel - begin : kBlock, indices, values));
    }
  }
  /// Gradient and error of before go into the row of the step and the error of after.
  void take_in(const Block& block,
               const SliceIn& grad,
               StateViews& state,
               const StepInfo& step) const;

 private:
  Block block_at(std::int64_t begin, std::int64_t n, std::int16_t* indices, bf16* values) const {
    const std::int64_t at = begin / kBlock * rows() * top_.kept(kBlock);
    return {begin, n, top_.kept(n), indices + at, values + at};
  }
  void add_error(const Block& block, StateViews& state, float* sum) const;
  void keep_error(const Block& block,
                  const SliceIn& grad,
                  StateViews& state,
                  const StepInfo& step,
                  const float* left) const;
  Settings settings_;
  TopK top_;
};

}  // namespace strata::optim
