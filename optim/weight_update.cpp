#include "optim/weight_update.h"

#include <algorithm>
#include <array>

#include "core/cpu/lanes.h"
#include "core/error.h"
#include "core/math.h"
#include "core/quant.h"

namespace strata::optim {
namespace {

/// WeightStep in the precision of the rule.
template <class T>
struct Move {
  T size, before, after;
  explicit Move(const WeightStep& by)
      : size(static_cast<T>(by.size)),
        before(static_cast<T>(by.decay_before)),
        after(static_cast<T>(by.decay_after)) {}
  // Decay is fma(-lr lambda, w, w), not w * (1 - lr lambda): the rounded constant errs in the same
  // direction every step.
  STRATA_HD T operator()(T w, T direction) const {
    const T moved = fma_(-size, direction, fma_(-before, w, w));
    return fma_(-after, moved, moved);
  }
  /// The same as a difference to w, so that what w cannot hold is not lost with it.
  STRATA_HD T change(T w, T direction) const {
    const T delta = fma_(-size, direction, -before * w);
    return fma_(-after, w + delta, delta);
  }
};

template <class T>
void move_plain(T* w, std::int64_t n, const T* direction, const Move<T>& shared) {
  cpu::simd([&] {
    const Move<T> move = shared;
    for (std::int64_t i = 0; i < n; ++i) {
      w[i] = move(w[i], direction[i]);
    }
  });
}

void copy_rounded(bf16* to, const float* from, std::int64_t n) {
  cpu::simd([&] {
    for (std::int64_t i = 0; i < n; ++i) {
      to[i] = to_bf16(from[i]);
    }
  });
}

void move_stochastic(bf16* w,
                     std::int64_t n,
                     const float* direction,
                     const Move<float>& shared,
                     const TileNoise& noise) {
  cpu::simd([&] {
    const Move<float> move = shared;
    for (std::int64_t i = 0; i < n; ++i) {
      w[i] = to_bf16_stochastic(move(to_float(w[i]), direction[i]),
                                noise[static_cast<std::size_t>(i)]);
    }
  });
}

/// Compensated summation: what the last roundings cut off joins the next change.
void move_kahan(
    bf16* w, bf16* residue, std::int64_t n, const float* direction, const Move<float>& shared) {
  cpu::simd([&] {
    const Move<float> move = shared;
    for (std::int64_t i = 0; i < n; ++i) {
      const float old = to_float(w[i]);
      const float change = move.change(old, direction[i]);
      const float due = to_float(residue[i]) + change;
      const bf16 now = to_bf16(old + due);
      const bf16 rest = to_bf16(due + (old - to_float(now)));
      // A residue of half an ulp would carry a weight that does not move to the next one.
      w[i] = change == 0.f ? w[i] : now;
      residue[i] = change == 0.f ? residue[i] : rest;
    }
  });
}

/// One group of int8 weights: its codes, their scale and zero point, and the copy that is computed
/// with.
struct Group {
  std::uint8_t* codes;
  float* affine;  // scale, zero
  std::int64_t n;
};

Group group_at(const Slice& slice, std::int64_t begin, std::int64_t n) {
  return {slice.codes.data<std::uint8_t>() + begin,
          slice.affine.data<float>() + begin / kWeightGroup * 2,
          n};
}

quant::Affine affine_of(const Group& group) {
  return {group.affine[0], group.affine[1], 255};
}

quant::Affine fit(const float* values, std::int64_t n) {
  float low = 0.f, high = 0.f;  // the range holds 0 anyway
  cpu::simd([&] {
    low = -cpu::lane_max(n, 0.f, [&](std::int64_t i) { return -values[i]; });
    high = cpu::lane_max(n, 0.f, [&](std::int64_t i) { return values[i]; });
  });
  return quant::Affine::of(low, high, 8);
}

void write_working(const Slice& slice, std::int64_t begin, const Group& group) {
  const quant::Affine affine = affine_of(group);
  const auto write = [&](auto* to) {
    cpu::simd([&] {
      for (std::int64_t i = 0; i < group.n; ++i) {
        store(to[i], affine.decode(group.codes[i]));
      }
    });
  };
  slice.working.dtype() == DType::f32 ? write(slice.working.data<float>() + begin)
                                      : write(slice.working.data<bf16>() + begin);
}

void move_group(const Slice& slice,
                std::int64_t begin,
                const Group& group,
                const float* direction,
                const Move<float>& move,
                const std::uint16_t* noise) {
  std::array<float, kWeightGroup> w;
  const quant::Affine before = affine_of(group);
  std::uint32_t moved = 0;
  cpu::simd([&] {
    const Move<float> by = move;
    for (std::int64_t i = 0; i < group.n; ++i) {
      const float old = before.decode(group.codes[i]);
      const float now = by(old, direction[i]);
      moved |= now != old ? 1u : 0u;
      w[static_cast<std::size_t>(i)] = now;
    }
  });
  if (moved == 0) {
    return;  // a fresh scale alone would change the weights
  }
  const quant::Affine after = fit(w.data(), group.n);
  group.affine[0] = after.scale, group.affine[1] = after.zero;
  cpu::simd([&] {
    for (std::int64_t i = 0; i < group.n; ++i) {
      const float u = static_cast<float>(noise[i]) * 0x1p-16f;
      group.codes[i] = static_cast<std::uint8_t>(after.encode(w[static_cast<std::size_t>(i)], u));
    }
  });
  write_working(slice, begin, group);
}

void move_int8(const Slice& slice,
               std::int64_t begin,
               std::int64_t n,
               const float* direction,
               const Move<float>& move,
               const TileNoise& noise) {
  for (std::int64_t at = 0; at < n; at += kWeightGroup) {
    const Group group = group_at(slice, begin + at, std::min(kWeightGroup, n - at));
    move_group(slice, begin + at, group, direction + at, move, noise.data() + at);
  }
}

}  // namespace

StateLayout weight_fields(WeightFormat format) {
  switch (format) {
    case WeightFormat::f32:
    case WeightFormat::bf16_stochastic:
      return {};
    case WeightFormat::bf16_master:
      return {{"weight", DType::f32, Granularity::element(), 1}};
    case WeightFormat::bf16_kahan:
      return {{"weight.residue", DType::bf16, Granularity::element(), 1}};
    case WeightFormat::int8:
      return {{"weight.codes", DType::u8, Granularity::element(), 1},
              {"weight.affine", DType::f32, Granularity::blocks_of(kWeightGroup), 2}};
  }
  return {};
}

std::int64_t state_bytes(const Optimizer& method,
                         const ParamInfo& param,
                         WeightFormat format,
                         DType working) {
  StateLayout fields = method.state_layout(param);
  const StateLayout own = weight_fields(format_of(format, param, working));
  fields.insert(fields.end(), own.begin(), own.end());
  std::int64_t bytes = 0;
  for (const StateField& field : fields) {
    bytes += size_bytes(field.dtype) * field_numel(field, param.shape, 0, param.shape.numel());
  }
  return bytes;
}

void load_weights(const Slice& slice, std::int64_t begin, std::int64_t n, float* to) {
  if (slice.master) {
    const float* const from = slice.master.data<float>() + begin;
    std::copy(from, from + n, to);
  } else if (slice.format == WeightFormat::int8) {
    for (std::int64_t at = 0; at < n; at += kWeightGroup) {
      const Group group = group_at(slice, begin + at, std::min(kWeightGroup, n - at));
      const quant::Affine affine = affine_of(group);
      std::transform(group.codes, group.codes + group.n, to + at, [&](std::uint8_t code) {
        return affine.decode(code);
      });
    }
  } else {
    const bf16* const from = slice.working.data<bf16>() + begin;
    std::transform(from, from + n, to, to_float);
  }
}

void move_weights(const Slice& slice,
                  std::int64_t begin,
                  std::int64_t n,
                  const float* direction,
                  const WeightStep& by,
                  const StepInfo& step) {
  const Move<float> move(by);
  TileNoise noise;
  if (slice.format == WeightFormat::bf16_stochastic || slice.format == WeightFormat::int8) {
    const RandomKey key{step.seed,
                        RandomUse::rounding,
                        static_cast<std::uint64_t>(step.step),
                        static_cast<std::uint64_t>(slice.param->id)};
    draw_noise(key, slice.begin + begin, n, noise);
  }
  switch (slice.format) {
    case WeightFormat::f32:
      return move_plain(slice.master.data<float>() + begin, n, direction, move);
    case WeightFormat::bf16_master: {
      float* const master = slice.master.data<float>() + begin;
      move_plain(master, n, direction, move);
      return copy_rounded(slice.working.data<bf16>() + begin, master, n);
    }
    case WeightFormat::bf16_stochastic:
      return move_stochastic(slice.working.data<bf16>() + begin, n, direction, move, noise);
    case WeightFormat::bf16_kahan:
      return move_kahan(slice.working.data<bf16>() + begin,
                        slice.residue.data<bf16>() + begin,
                        n,
                        direction,
                        move);
    case WeightFormat::int8:
      return move_int8(slice, begin, n, direction, move, noise);
  }
}

void move_block(const Slice& slice,
                std::int64_t begin,
                std::int64_t n,
                const float* direction,
                const WeightStep& by,
                const StepInfo& step) {
  for (std::int64_t at = 0; at < n; at += kTile) {
    move_weights(slice, begin + at, std::min(kTile, n - at), direction + at, by, step);
  }
}

void move_weights(const Slice& slice,
                  std::int64_t begin,
                  std::int64_t n,
                  const double* direction,
                  const WeightStep& by,
                  const StepInfo&) {
  STRATA_ASSERT(slice.format == WeightFormat::f32);
  move_plain(slice.master.data<double>() + begin, n, direction, Move<double>(by));
}

WeightFormat format_of(WeightFormat format, const ParamInfo& param, DType working) {
  if (format == WeightFormat::int8 && param.role != Role::matrix) {
    return working == DType::f32 ? WeightFormat::f32 : WeightFormat::bf16_master;
  }
  return format;
}

void round_to_int8(std::span<float> values) {
  const auto numel = static_cast<std::int64_t>(values.size());
  for (std::int64_t at = 0; at < numel; at += kWeightGroup) {
    const auto group = values.subspan(static_cast<std::size_t>(at),
                                      static_cast<std::size_t>(std::min(kWeightGroup, numel - at)));
    const quant::Affine affine = fit(group.data(), static_cast<std::int64_t>(group.size()));
    std::transform(group.begin(), group.end(), group.begin(), [&](float value) {
      return affine.decode(affine.encode(value));
    });
  }
}

void start_weights(const Slice& slice, std::int64_t begin, std::int64_t n, const float* values) {
  switch (slice.format) {
    case WeightFormat::f32:
      std::copy(values, values + n, slice.master.data<float>() + begin);
      return;
    case WeightFormat::bf16_master:
      std::copy(values, values + n, slice.master.data<float>() + begin);
      return copy_rounded(slice.working.data<bf16>() + begin, values, n);
    case WeightFormat::bf16_kahan: {
      bf16* const residue = slice.residue.data<bf16>() + begin;
      for (std::int64_t i = 0; i < n; ++i) {
        residue[i] = to_bf16(values[i] - to_float(to_bf16(values[i])));
      }
      return copy_rounded(slice.working.data<bf16>() + begin, values, n);
    }
    case WeightFormat::bf16_stochastic:
      return copy_rounded(slice.working.data<bf16>() + begin, values, n);
    case WeightFormat::int8:
      for (std::int64_t at = 0; at < n; at += kWeightGroup) {
        const Group group = group_at(slice, begin + at, std::min(kWeightGroup, n - at));
        const quant::Affine affine = fit(values + at, group.n);
        group.affine[0] = affine.scale, group.affine[1] = affine.zero;
        std::transform(values + at, values + at + group.n, group.codes, [&](float value) {
          return static_cast<std::uint8_t>(affine.encode(value));
        });
        write_working(slice, begin + at, group);
      }
  }
}

}  // namespace strata::optim
