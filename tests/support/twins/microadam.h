#pragma once
#include "tests/support/twins/codes.h"
#include "tests/support/twins/top_k.h"

namespace strata::tests::twins {

struct MicroAdamSettings {
  enum class Stored : std::uint8_t { coded, exact };      // exact: the checks' test modes
  enum class Norm : std::uint8_t { by_step, by_window };  // 1 - beta^t, or the window's own weight
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  double density = 0.01;
  std::size_t window = 10, block = 4096, quant_block = 64;
  Stored error = Stored::coded, values = Stored::coded;
  Norm norm = Norm::by_step;
};

/// Error: codes of two elements a byte and (low, high) per quantisation block; for an exact error
/// `exact` alone. Window: m rows of k, blocks one after the other in each.
struct MicroAdamState {
  Bytes error_codes;
  Vec error_range;
  Vec error_exact;
  std::vector<std::int16_t> indices;
  Vec values;
};

/// Elements that one row of the window holds.
inline std::size_t row_of(const MicroAdamSettings& s, std::size_t numel) {
  const std::size_t rest = numel % s.block;
  return numel / s.block * kept_of(s.block, s.density) + kept_of(rest, s.density);
}

inline MicroAdamState microadam_start(const MicroAdamSettings& s, std::size_t numel) {
  const std::size_t blocks = (numel + s.quant_block - 1) / s.quant_block;
  const std::size_t window = s.window * row_of(s, numel);
  return {Bytes((numel + 1) / 2),
          Vec(2 * blocks),
          Vec(numel),
          std::vector<std::int16_t>(window),
          Vec(window)};
}

inline Vec decode_error(const MicroAdamState& state,
                        std::size_t numel,
                        const MicroAdamSettings& s) {
  if (s.error == MicroAdamSettings::Stored::exact) {
    return state.error_exact;
  }
  Vec out(numel);
  for (std::size_t i = 0; i < numel; ++i) {
    const double* range = &state.error_range[2 * (i / s.quant_block)];
    out[i] = dequantise_error(nibble(state.error_codes, i), range[0], range[1]);
  }
  return out;
}

/// Gradient to window row and next error. Margins in f32 ulps.
struct MicroAdamIntake {
  Vec sum, terms;  // g + error, and the largest summand of each
  TopK chosen;     // the twin's own choice, whatever was given
  Vec values, value_margin;
  Bytes error_codes;
  Vec error_range, error_exact;
  Vec code_margin;   // one per element
  Vec range_margin;  // two per quantisation block
};

/// What the kernel chose; empty: the twin's own. `indices`: its new row; `range`: its new range;
/// `shift`: what is added before the floor of an error code, 1/2 unless given.
struct MicroAdamHints {
  std::span<const std::int16_t> indices;
  std::span<const double> range, shift;
};

inline MicroAdamIntake microadam_intake(const MicroAdamState& state,
                                        const Vec& g,
                                        const MicroAdamSettings& s,
                                        const MicroAdamHints& hints = {}) {
  MicroAdamIntake out{
      decode_error(state, g.size(), s), Vec(g.size()), {}, {}, {}, {}, {}, {}, {}, {}};
  for (std::size_t i = 0; i < g.size(); ++i) {
    // A decoded error is a sum itself, which may cancel.
    const bool coded = s.error == MicroAdamSettings::Stored::coded;
    const double low = coded ? std::abs(state.error_range[2 * (i / s.quant_block)]) : 0;
    out.terms[i] = std::max({std::abs(out.sum[i]), std::abs(g[i]), low});
    out.sum[i] += g[i];
  }
  out.chosen = top_k(out.sum, s.block, s.density, out.terms);
  Vec rest = out.sum, rest_terms = out.terms;
  const std::vector<std::size_t> taken =
      hints.indices.empty() ? out.chosen.elements
                            : elements_of(hints.indices, g.size(), s.block, s.density);
  for (const std::size_t i : taken) {
    const Rounded value = s.values == MicroAdamSettings::Stored::exact
                              ? Rounded{out.sum[i], out.sum[i], kFar}
                              : round_bf16(out.sum[i], out.terms[i]);
    out.values.push_back(value.value);
    out.value_margin.push_back(value.margin);
    rest[i] = rest_terms[i] = 0;
  }
  out.error_exact = rest;
  Bytes codes;
  for (std::size_t start = 0; start < g.size(); start += s.quant_block) {
    const std::size_t count = std::min(s.quant_block, g.size() - start);
    std::optional<std::pair<double, double>> range;
    if (!hints.range.empty()) {
      const std::size_t j = 2 * (start / s.quant_block);
      range = {hints.range[j], hints.range[j + 1]};
    }
    const auto shift = hints.shift.empty() ? hints.shift : hints.shift.subspan(start, count);
    const ErrorBlock block =
        quantise_error({&rest[start], count}, range, {&rest_terms[start], count}, shift);
    codes.insert(codes.end(), block.codes.begin(), block.codes.end());
    out.error_range.insert(out.error_range.end(), {block.low.value, block.high.value});
    out.range_margin.insert(out.range_margin.end(), {block.low.margin, block.high.margin});
    out.code_margin.insert(out.code_margin.end(), block.margin.begin(), block.margin.end());
  }
  out.error_codes = pack_nibbles(codes);
  return out;
}

/// New weights from a window that holds this step's row: the twin's own or the kernel's.
inline Vec microadam_update(const Vec& weights,
                            std::span<const std::int16_t> indices,
                            std::span<const double> values,
                            const MicroAdamSettings& s,
                            double lr,
                            std::int64_t t) {
  const std::size_t k = row_of(s, weights.size()), step = static_cast<std::size_t>(t - 1);
  Vec m(weights.size()), v(weights.size());
  double m_weight = 0, v_weight = 0;
  for (std::size_t row = 0; row < std::min(step + 1, s.window); ++row) {
    const double age = static_cast<double>((step + s.window - row) % s.window);
    const double m_decay = std::pow(s.beta1, age), v_decay = std::pow(s.beta2, age);
    const std::vector<std::size_t> elements =
        elements_of(indices.subspan(row * k, k), weights.size(), s.block, s.density);
    for (std::size_t j = 0; j < k; ++j) {
      const double value = values[row * k + j];
      m[elements[j]] += m_decay * value;
      v[elements[j]] += v_decay * value * value;
    }
    m_weight += m_decay;
    v_weight += v_decay;
  }
  double m_scale = 1 / m_weight, v_scale = 1 / v_weight;
  if (s.norm == MicroAdamSettings::Norm::by_step) {
    m_scale = (1 - s.beta1) / (1 - std::pow(s.beta1, static_cast<double>(t)));
    v_scale = (1 - s.beta2) / (1 - std::pow(s.beta2, static_cast<double>(t)));
  }
  Vec out(weights.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = weights[i] * (1 - lr * s.weight_decay) -
             lr * (m_scale * m[i]) / (std::sqrt(v_scale * v[i]) + s.eps);
  }
  return out;
}

struct MicroAdamStep {
  Vec weights;
  MicroAdamState state;
  MicroAdamIntake intake;
};

inline MicroAdamStep microadam(const Vec& weights,
                               const MicroAdamState& state,
                               const Vec& g,
                               const MicroAdamSettings& s,
                               double lr,
                               std::int64_t t,
                               const MicroAdamHints& hints = {}) {
  MicroAdamStep out{{}, state, microadam_intake(state, g, s, hints)};
  const std::size_t k = row_of(s, g.size());
  const std::size_t first = static_cast<std::size_t>(t - 1) % s.window * k;
  for (std::size_t j = 0; j < k; ++j) {
    out.state.indices[first + j] =
        hints.indices.empty() ? out.intake.chosen.indices[j] : hints.indices[j];
    out.state.values[first + j] = out.intake.values[j];
  }
  out.state.error_codes = out.intake.error_codes;
  out.state.error_range =
      hints.range.empty() ? out.intake.error_range : Vec(hints.range.begin(), hints.range.end());
  out.state.error_exact = out.intake.error_exact;
  out.weights = microadam_update(weights, out.state.indices, out.state.values, s, lr, t);
  return out;
}

}  // namespace strata::tests::twins
