#include "optim/stat_slots.h"

#include <functional>

#include "core/error.h"

namespace strata::optim {

void StatSlots::arrange(const Optimizer& method,
                        const BlockSpec& spec,
                        const BlockLayout& layout,
                        std::int64_t step) {
  params_.clear();
  per_phase_ = 0;
  for (std::size_t p = 0; p < spec.params.size(); ++p) {
    Needs needs = method.needs(spec.params[p].info, step);
    const Turn turn = layout.turns[p];
    needs.active = needs.active && turn != Turn::frozen;
    needs.stat_phases = turn == Turn::waiting ? 0 : needs.stat_phases;
    const std::int64_t piece = layout.pieces[p];
    const std::int64_t pieces = (spec.params[p].info.shape.numel() + piece - 1) / piece;
    params_.push_back({needs, piece, pieces, per_phase_});
    if (needs.active && needs.stat_phases > 0) {
      per_phase_ += static_cast<std::size_t>(needs.stats) * static_cast<std::size_t>(pieces);
    }
  }
}

std::span<double> StatSlots::slot(std::vector<double>& stats,
                                  int phase,
                                  int param,
                                  std::int64_t piece) const {
  const Param& of = params_[static_cast<std::size_t>(param)];
  const auto count = static_cast<std::size_t>(of.needs.stats);
  const std::size_t at = size(phase) + of.first + count * static_cast<std::size_t>(piece);
  STRATA_ASSERT(at + count <= stats.size());
  return std::span(stats).subspan(at, count);
}

std::span<const double> StatSlots::totals(std::vector<double>& stats, int param, int phases) {
  const Param& of = params_[static_cast<std::size_t>(param)];
  const auto count = static_cast<std::size_t>(of.needs.stats);
  const int last = std::min(phases, of.needs.stat_phases);
  totals_.assign(count * static_cast<std::size_t>(last), 0.0);
  for (int phase = 0; phase < last; ++phase) {
    double* const sum = totals_.data() + count * static_cast<std::size_t>(phase);
    for (std::int64_t piece = 0; piece < of.pieces; ++piece) {
      const std::span<const double> share = slot(stats, phase, param, piece);
      std::transform(share.begin(), share.end(), sum, sum, std::plus<>());
    }
  }
  return totals_;
}

void StatSlots::forget_others(std::vector<double>& stats,
                              std::span<const OwnedRange> ours,
                              int phases) {
  kept_.assign(stats.size(), 0.0);
  for (const OwnedRange& range : ours) {
    const Needs& wanted = needs(range.param);
    for (int phase = 0; wanted.active && phase < std::min(phases, wanted.stat_phases); ++phase) {
      for_each_piece(range, [&](std::int64_t piece, std::int64_t, std::int64_t) {
        std::ranges::copy(slot(stats, phase, range.param, piece),
                          slot(kept_, phase, range.param, piece).begin());
      });
    }
  }
  stats.swap(kept_);
}

}  // namespace strata::optim
