// MicroAdam beside its twin, teacher-forced: what is chosen, what is kept of it, and the error that
// goes on.
#include "tests/optim/teacher.h"
#include "tests/support/twins/microadam.h"

namespace strata::tests {
namespace {

using twins::Vec;

/// The kernel keeps the window block by block of 4096, the twin row by row.
template <class T>
std::vector<T> by_rows(const T* from, std::size_t numel, const twins::MicroAdamSettings& s) {
  std::vector<T> out(s.window * twins::row_of(s, numel));
  const std::size_t row = twins::row_of(s, numel);
  std::size_t column = 0;
  for (std::size_t start = 0; start < numel; start += s.block) {
    const std::size_t kept = twins::kept_of(std::min(s.block, numel - start), s.density);
    for (std::size_t r = 0; r < s.window; ++r) {
      std::copy(from, from + kept, out.begin() + static_cast<std::ptrdiff_t>(r * row + column));
      from += kept;
    }
    column += kept;
  }
  return out;
}

twins::MicroAdamState take(const OneTensor& kernel, const twins::MicroAdamSettings& s) {
  twins::MicroAdamState out;
  out.error_codes = kernel.codes("error.codes");
  out.error_range = kernel.values("error.range");
  out.indices = by_rows(kernel.field("window.indices").data<std::int16_t>(), kernel.size(), s);
  const Vec values = kernel.values("window.values");
  out.values = by_rows(values.data(), kernel.size(), s);
  return out;
}

/// The row that step t wrote.
template <class T>
std::span<const T> newest(const std::vector<T>& window,
                          const twins::MicroAdamSettings& s,
                          std::size_t numel,
                          std::int64_t t) {
  const std::size_t row = twins::row_of(s, numel);
  return std::span(window).subspan(static_cast<std::size_t>(t - 1) % s.window * row, row);
}

/// What differs, apart. Ranges are bf16 of few bits: levels that come back without gradient lie on
/// them or halfway between levels of the next range, and so does the zero of what was sent where a
/// range is symmetric. There the rounding of the step decides; those ties are no rate.
struct Counts {
  Judge choices, rounded, codes;
  void expect_few(int steps) const {
    if (steps >= 1000) {  // a short run has too few elements to show such rates
      choices.expect_few_flips();
      codes.expect_few_flips();
      rounded.expect_few_flips(4.0 / 65536);  // bf16 has a boundary in each 2^16 ulps
    }
  }
  void report() const {
    choices.report("microadam choices");
    rounded.report("microadam values and ranges");
    codes.report("microadam codes");
  }
};

void compare(const twins::MicroAdamState& got,
             const twins::MicroAdamStep& twin,
             std::span<const std::int16_t> indices,
             std::span<const double> values,
             const twins::MicroAdamSettings& s,
             Counts& counts) {
  const twins::MicroAdamIntake& intake = twin.intake;
  const std::size_t numel = intake.sum.size();
  const auto ours = twins::elements_of(indices, numel, s.block, s.density);
  Vec chosen(numel), own(numel);
  for (const std::size_t i : ours) {
    chosen[i] = 1;
  }
  for (const std::size_t i : intake.chosen.elements) {
    own[i] = 1;
  }
  for (std::size_t i = 0; i < numel; ++i) {
    counts.choices.compare_choice(chosen[i], own[i], 1 - own[i], intake.chosen.margin[i], "choice");
  }
  for (std::size_t k = 0; k < values.size(); ++k) {
    counts.rounded.compare_bf16(
        values[k], intake.values[k], intake.value_margin[k], intake.terms[ours[k]], "value");
  }
  for (std::size_t j = 0; j < got.error_range.size(); ++j) {
    double term = 0;
    for (std::size_t i = j / 2 * s.quant_block; i < std::min(numel, (j / 2 + 1) * s.quant_block);
         ++i) {
      term = std::max(term, intake.terms[i]);
    }
    counts.rounded.compare_bf16(
        got.error_range[j], intake.error_range[j], intake.range_margin[j], term, "range");
  }
  for (std::size_t i = 0; i < numel; ++i) {
    const int code = twins::nibble(got.error_codes, i), want = twins::nibble(intake.error_codes, i);
    counts.codes.compare_choice(
        code, want, want + (code > want ? 1 : -1), intake.code_margin[i], "error code");
  }
}

void microadam(int steps, bool stochastic, bool window_norm) {
  twins::MicroAdamSettings s;
  s.weight_decay = 0.1;
  s.norm = window_norm ? twins::MicroAdamSettings::Norm::by_window
                       : twins::MicroAdamSettings::Norm::by_step;
  const auto text = [](bool value) { return std::string(value ? "true" : "false"); };
  Counts counts;
  for (const Shape& shape : {Shape{37, 61}, {1, 300}, {5}, {4099}, {130, 64}}) {
    const auto numel = static_cast<std::size_t>(shape.numel());
    OneTensor kernel({.method = "microadam",
                      .settings = {{"weight_decay", "0.1"},
                                   {"stochastic_error", text(stochastic)},
                                   {"window_norm", text(window_norm)}},
                      .shape = shape},
                     start_values(numel));
    Gradients gradients(numel);
    for (std::int64_t t = 1; t <= steps; ++t) {
      const std::span<const float> g = gradients.next();
      const twins::MicroAdamState old = take(kernel, s);
      const Vec before = kernel.weights();
      kernel.step(g, rate_of(t), clip_of(t));
      const twins::MicroAdamState now = take(kernel, s);
      Vec shift;
      if (stochastic) {
        const RandomKey key{5,
                            RandomUse::state_rounding,
                            static_cast<std::uint64_t>(t),
                            static_cast<std::uint64_t>(OneTensor::kId)};
        for (std::size_t i = 0; i < numel; ++i) {
          shift.push_back(static_cast<double>(uniform(key.words(i / 4)[i % 4])));
        }
      }
      const auto indices = newest(now.indices, s, numel, t);
      const twins::MicroAdamStep twin = twins::microadam(
          before, old, clipped(g, t), s, rate_of(t), t, {indices, now.error_range, shift});
      compare(now, twin, indices, newest(now.values, s, numel, t), s, counts);
      // Of the window that the kernel has: a value that was rounded otherwise is none of it.
      const Vec weights =
          twins::microadam_update(before, now.indices, now.values, s, rate_of(t), t);
      counts.choices.compare_weights(kernel.weights(), weights, before, rate_of(t));
      ASSERT_FALSE(::testing::Test::HasFatalFailure()) << to_string(shape) << " step " << t;
    }
  }
  counts.expect_few(steps);
  counts.report();
}

TEST(ExactnessOfMicroAdam, ChoosesAndKeepsWhatItsTwinDoes) {
  microadam(25, false, false);
  microadam(15, true, false);
  microadam(15, false, true);
}
TEST(ExactnessOfMicroAdam, SlowChoosesAndKeepsWhatItsTwinDoes) {
  microadam(1000, false, false);
  microadam(1000, true, false);
}

}  // namespace
}  // namespace strata::tests
