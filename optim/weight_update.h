#pragma once
#include <cstdint>
#include <span>

#include "core/param.h"
#include "optim/optimizer.h"
#include "optim/tile.h"

namespace strata::optim {

/// w <- (1 - decay_before) w - size * direction, then w <- (1 - decay_after) w.
struct WeightStep {
  double size = 0.0, decay_before = 0.0, decay_after = 0.0;
};

/// Fields of state that a weight format needs beside the working weight: the f32 master ("weight"),
/// Kahan's residue, int8 codes with scale and zero point.
StateLayout weight_fields(WeightFormat format);

/// Bytes that the owner of a whole parameter keeps beside its working weight: the method's state
/// and what the weight format needs.
std::int64_t state_bytes(const Optimizer& method,
                         const ParamInfo& param,
                         WeightFormat format,
                         DType working);

/// Precise weights of elements [begin, begin + n) of the slice, as f32: where the next step starts.
void load_weights(const Slice& slice, std::int64_t begin, std::int64_t n, float* to);

/// Moves the weights of one tile along `direction` (n values), begin a multiple of kTile. Formats
/// that round stochastically do so by (seed, step, tensor, element). Master and working copy are
/// written in one pass; weights that do not move keep their bits in every format.
void move_weights(const Slice& slice,
                  std::int64_t begin,
                  std::int64_t n,
                  const float* direction,
                  const WeightStep& by,
                  const StepInfo& step);
/// The same of any number of elements, tile by tile, on the calling thread.
void move_block(const Slice& slice,
                std::int64_t begin,
                std::int64_t n,
                const float* direction,
                const WeightStep& by,
                const StepInfo& step);
/// The same of a slice whose master is float64 (published traces).
void move_weights(const Slice& slice,
                  std::int64_t begin,
                  std::int64_t n,
                  const double* direction,
                  const WeightStep& by,
                  const StepInfo& step);

/// How a parameter's weights are kept: int8 codes are for matrices; of the others there is an f32
/// master or nothing but f32.
WeightFormat format_of(WeightFormat format, const ParamInfo& param, DType working);

/// What int8 codes hold of precise weights, whole groups of them, rounded to nearest.
void round_to_int8(std::span<float> values);

/// What the format keeps of given precise weights, rounded to nearest: at the start of a run.
/// `begin`: of the slice, a multiple of kWeightGroup.
void start_weights(const Slice& slice, std::int64_t begin, std::int64_t n, const float* values);

}  // namespace strata::optim
