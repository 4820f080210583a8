#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "optim/coded_tile.h"
#include "optim/moments.h"
#include "optim/registry.h"
#include "optim/weight_update.h"

namespace strata::optim {

/// What is known of a step when a rule runs.
struct RuleStep {
  std::int64_t t = 1;          // steps since the moments were last empty, this one included
  double coupled_decay = 0.0;  // times the weight, joins the gradient (Rule::couples_decay)
  std::span<std::byte> workspace = {};
  std::span<const double> totals = {};  // of all phases of Rule::stats
};

/// What a rule works on. `param` is null for the image of a matrix in a subspace.
struct RuleSlice {
  const ParamInfo* param = nullptr;
  std::int64_t begin = 0;  // first element of the slice
  StateViews* state = nullptr;
};

/// Runs a rule's kernel over the slice, tile by tile: moments are decoded before and coded after,
/// directions go to `sink`, or to `directions` where that is given.
///
/// A kernel is `T operator()(T g, T w, T& first, T& second) const`: gradient, weight and moments
/// in, direction out, so that w <- w - size * direction; in + - * / sqrt and fma_ only, so that
/// bytes agree over threads, instruction sets and devices. Where it uses them it says so: kMoments
/// = 1 or 2, kReadsWeight, kSharedSecond (a second moment that it only reads). One whose call is a
/// template, `F operator()(const F& g, const F& w, F& first, F& second) const`, in select() and
/// sqrt_() of core/lane.h besides, runs on 16 lanes while coded moments are decoded.
template <class T>
class RuleLoop {
 public:
  std::int64_t numel = 0;
  const T* grad = nullptr;
  T scale = 1;  // clip coefficient
  std::array<CodedMoment, 2> moments;
  const Slice* weights = nullptr;
  /// Instead of a second moment: fills the values of elements [begin, begin + n).
  std::function<void(std::int64_t begin, std::int64_t n, T* to)> shared_second;
  T* directions = nullptr;
  std::function<void(std::int64_t begin, std::int64_t n, const T* direction)> sink;

  template <class Kernel>
  void run(const Kernel& kernel) const {
    for_each_tile(numel, [&](std::int64_t begin, std::int64_t n) { tile(kernel, begin, n); });
  }

 private:
  using Buffer = std::array<T, kTile>;
  template <class Kernel>
  void tile(const Kernel& kernel, std::int64_t begin, std::int64_t n) const;
  template <class Kernel>
  bool coded_tile(const Kernel& kernel, std::int64_t begin) const;
  template <class First, class Second, class Kernel>
  bool coded_tile_as(const Kernel& kernel, std::int64_t begin) const;
  T* load(const CodedMoment& moment, std::int64_t begin, std::int64_t n, Buffer& buffer) const {
    if (const Tensor values = moment.in_place()) {
      return values.data<T>() + begin;
    }
    if constexpr (std::is_same_v<T, float>) {
      moment.load(begin, n, buffer.data());
    }
    return buffer.data();
  }
  void store(const CodedMoment& moment, std::int64_t begin, std::int64_t n, const T* from) const {
    if constexpr (std::is_same_v<T, float>) {
      if (!moment.in_place()) {
        moment.store(begin, n, from);
      }
    }
  }
  /// Zeros for an image, which has none: a rule that couples decay may not decay there.
  const T* weights_at(std::int64_t begin, std::int64_t n, Buffer& buffer) const {
    if (weights == nullptr) {
      std::fill_n(buffer.data(), n, T(0));
      return buffer.data();
    }
    if (weights->master) {
      return weights->master.data<T>() + begin;
    }
    if constexpr (std::is_same_v<T, float>) {
      load_weights(*weights, begin, n, buffer.data());
    }
    return buffer.data();
  }
};

/// What a kernel says of itself, or the default.
template <class Kernel>
struct KernelTraits {
  static constexpr int moments() {
    if constexpr (requires { Kernel::kMoments; }) {
      return Kernel::kMoments;
    } else {
      return 0;
    }
  }
  static constexpr bool kReadsWeight = requires { Kernel::kReadsWeight; };
  static constexpr bool kSharedSecond = requires { Kernel::kSharedSecond; };
  static constexpr int kMoments = moments();
};

/// A kernel whose call is a template works on any lanes, so that decoding needs no pass of its own.
template <class Kernel>
concept LaneKernel = requires(const Kernel kernel, cpu::WideFloat x) {
  kernel.template operator()<cpu::WideFloat>(x, x, x, x);
};

template <class T>
template <class First, class Second, class Kernel>
bool RuleLoop<T>::coded_tile_as(const Kernel& kernel, std::int64_t begin) const {
  constexpr bool kTwo = KernelTraits<Kernel>::kMoments > 1;
  static_assert(First::kBlock == Second::kBlock);
  const CodedMoment& coded = moments[kTwo ? 1 : 0];
  std::uint8_t* const first_codes = moments[0].template codes<First>(begin);
  std::uint8_t* const second_codes = coded.template codes<Second>(begin);
  float* const first_numbers = moments[0].template numbers<First>(begin);
  float* const second_numbers = coded.template numbers<Second>(begin);
  const typename First::Reader first{first_codes, first_numbers};
  const typename Second::Reader second{second_codes, second_numbers};
  alignas(64) Buffer first_values, second_values, direction_buffer;
  T* const d = directions == nullptr ? direction_buffer.data() : directions + begin;
  const float* const master =
      weights != nullptr && weights->master ? weights->master.data<float>() : grad;
  TileExtremes first_extremes, second_extremes;
  cpu::with_lanes([&]<class F>(std::type_identity<F>) {
    // Copies, since what is stored might be what is captured.
    const Kernel rule = kernel;
    const F by(scale), none(0.f);
    for (std::int64_t b = 0; b < kTile / First::kBlock; ++b) {
      const std::int64_t from = b * First::kBlock;
      const auto first_block = first.template block<F>(b);
      const auto second_block = second.template block<F>(b);
      const float* const g_at = grad + begin + from;
      const float* const w_at = master + begin + from;
      float* const d_at = d + from;
      float* const m_at = first_values.data() + from;
      float* const v_at = second_values.data() + from;
      BlockExtremes<F, First::kNeedsLeast> of_first;
      BlockExtremes<F, Second::kNeedsLeast, false> of_second;
#pragma GCC unroll 1
      for (std::int64_t i = 0; i < First::kBlock; i += cpu::kLanesOf<F>) {
        // Tiles end where pages do, and where those end, processors stop to fetch ahead.
        cpu::fetch<F>(g_at + kTile + i);
        cpu::fetch<F>(w_at + kTile + i);
        F g, m = first_block.read(i), v(0.f);
        cpu::read(g, g_at + i);
        if constexpr (kTwo) {
          v = second_block.read(i);
        }
        cpu::write(d_at + i, rule(by * g, none, m, v));
        cpu::write(m_at + i, m);
        of_first.take(m);
        if constexpr (kTwo) {
          cpu::write(v_at + i, v);
          of_second.take(v);
        }
      }
      of_first.put(first_extremes, b);
      of_second.put(second_extremes, b);
    }
    if constexpr (!First::kNeedsLeast) {
      First::template write<F>(first_values.data(), first_extremes, first_codes, first_numbers);
      if constexpr (kTwo) {
        Second::template write<F>(
            second_values.data(), second_extremes, second_codes, second_numbers);
      }
    }
  });
  if constexpr (First::kNeedsLeast) {
    write_tile<First>(first_values.data(), first_extremes, first_codes, first_numbers);
    if constexpr (kTwo) {
      write_tile<Second>(second_values.data(), second_extremes, second_codes, second_numbers);
    }
  }
  if (sink) {
    sink(begin, kTile, d);
  }
  return true;
}

/// Whether it was done: of a whole tile of coded moments, the second one never below zero.
template <class T>
template <class Kernel>
bool RuleLoop<T>::coded_tile(const Kernel& kernel, std::int64_t begin) const {
  constexpr bool kTwo = KernelTraits<Kernel>::kMoments > 1;
  if (moments[0].positive() || (kTwo && !moments[1].positive())) {
    return false;
  }
  switch (moments[0].codec()) {
    case StateCodec::f32:
    case StateCodec::bf16:
      return false;
    case StateCodec::dynamic8:
      if constexpr (!kTwo) {
        return coded_tile_as<Signed8, Signed8>(kernel, begin);
      } else if (moments[1].zero() == quant::ZeroCode::half_least) {
        return coded_tile_as<Signed8, Floored8>(kernel, begin);
      } else {
        return coded_tile_as<Signed8, Positive8>(kernel, begin);
      }
    case StateCodec::dynamic4:
      return coded_tile_as<Signed4, Positive4>(kernel, begin);
    case StateCodec::fp8:
      return coded_tile_as<Fp8Codec, PositiveFp8Codec>(kernel, begin);
  }
  return false;
}

template <class T>
template <class Kernel>
void RuleLoop<T>::tile(const Kernel& kernel, std::int64_t begin, std::int64_t n) const {
  using Traits = KernelTraits<Kernel>;
  if constexpr (std::is_same_v<T, float> && Traits::kMoments > 0 && !Traits::kReadsWeight &&
                !Traits::kSharedSecond && LaneKernel<Kernel>) {
    if (n == kTile && coded_tile(kernel, begin)) {
      return;
    }
  }
  alignas(64) Buffer first_buffer, second_buffer, weight_buffer, direction_buffer;
  T* first = nullptr;
  T* second = nullptr;
  if constexpr (Traits::kMoments > 0) {
    first = load(moments[0], begin, n, first_buffer);
  }
  if constexpr (Traits::kMoments > 1) {
    second = load(moments[1], begin, n, second_buffer);
  } else if (shared_second) {
    second = second_buffer.data();
    shared_second(begin, n, second);
  }
  const T* w = nullptr;
  if constexpr (Traits::kReadsWeight) {
    w = weights_at(begin, n, weight_buffer);
  }
  const T* const g = grad + begin;
  T* const d = directions == nullptr ? direction_buffer.data() : directions + begin;
  cpu::simd([&] {
    const Kernel rule = kernel;
    const T by = scale;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < n; ++i) {
      T none = 0, other = 0;
      d[i] = rule(by * g[i],
                  Traits::kReadsWeight ? w[i] : T(0),
                  Traits::kMoments > 0 ? first[i] : none,
                  Traits::kMoments > 1 || Traits::kSharedSecond ? second[i] : other);
    }
  });
  if constexpr (Traits::kMoments > 0) {
    store(moments[0], begin, n, first);
  }
  if constexpr (Traits::kMoments > 1) {
    store(moments[1], begin, n, second);
  }
  if (sink) {
    sink(begin, n, d);
  }
}

/// Sums over whole tensors that a rule needs before it runs: `stats` doubles in each phase.
struct RuleStats {
  int phases = 0, stats = 0;
};

/// How gradient and moments become a direction. Knows no weight format, codec, subspace or shard.
class Rule {
 public:
  virtual ~Rule() = default;
  virtual std::span<const Moment> moments() const = 0;
  /// State beside the moments, where a parameter may be cut, and scratch of one update.
  virtual void add_fields(const ParamInfo&, StateLayout&) const {}
  virtual Granularity granularity(const ParamInfo&) const { return Granularity::element(); }
  virtual std::int64_t workspace_bytes(const ParamInfo&) const { return 0; }
  /// Whether the rule works on elements alone, so that it can work in a subspace too.
  virtual bool elementwise() const { return true; }
  /// The step is lr times this.
  virtual double step_factor(std::int64_t /*t*/) const { return 1.0; }
  /// Whether weights decay after the step instead of before it.
  virtual bool decays_after() const { return false; }
  /// Whether decay joins the gradient instead of the weight.
  virtual bool couples_decay() const { return false; }
  /// See Optimizer::stats; the gradient counts times `scale`.
  virtual RuleStats stat_needs() const { return {}; }
  virtual void stats(const SliceIn& /*grad*/,
                     float /*scale*/,
                     StateViews&,
                     std::span<const double> /*totals*/,
                     std::span<double> /*partial*/,
                     int /*phase*/) const {}
  virtual void run(const RuleStep& step, const RuleSlice& slice, RuleLoop<float>& loop) const = 0;
  virtual void run(const RuleStep& step, const RuleSlice& slice, RuleLoop<double>& loop) const = 0;
};

/// A rule whose elements do not know of each other: Derived has `kernel<T>(step)`.
template <class Derived>
class ElementRule : public Rule {
 public:
  void run(const RuleStep& step, const RuleSlice&, RuleLoop<float>& loop) const final {
    loop.run(self().template kernel<float>(step));
  }
  void run(const RuleStep& step, const RuleSlice&, RuleLoop<double>& loop) const final {
    loop.run(self().template kernel<double>(step));
  }

 private:
  const Derived& self() const { return static_cast<const Derived&>(*this); }
};

/// Rules by name, for any composition. Throws config for an unknown one, naming `setting`.
struct RuleType {
  std::string name;
  std::function<std::unique_ptr<Rule>(std::string_view method, std::span<const Setting>)> make;
  std::function<std::vector<SettingInfo>()> settings;
};
void register_rule(RuleType type);
const RuleType& find_rule(std::string_view name, std::string_view setting = "rule");
std::vector<std::string> rule_names();

/// `const RuleRegistrar<Sgd> rule{"sgd"};` makes a rule known; T as for Registrar.
template <class T>
struct RuleRegistrar {
  explicit RuleRegistrar(std::string name) {
    register_rule({std::move(name),
                   [](std::string_view method, std::span<const Setting> settings) {
                     return std::unique_ptr<Rule>(
                         std::make_unique<T>(read<typename T::Config>(method, settings)));
                   },
                   &list_settings<typename T::Config>});
  }
};

}  // namespace strata::optim
