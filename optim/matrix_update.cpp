#include "optim/matrix_update.h"

#include <algorithm>

namespace strata::optim {

RuleLoop<float> image_loop(const MatrixStep& step, std::int64_t numel) {
  RuleLoop<float> loop;
  loop.numel = numel;
  loop.scale = step.scale;
  const RandomKey key{step.info.seed,
                      RandomUse::state_rounding,
                      static_cast<std::uint64_t>(step.info.step),
                      static_cast<std::uint64_t>(step.weight.param->id)};
  std::size_t next = 0;
  for (const Moment& moment : step.rule.moments()) {
    loop.moments[next++] = CodedMoment(step.codec, moment, step.state, key, 0, step.zero_code);
  }
  return loop;
}

void clear_moments(std::span<const Moment> moments, StateCodec codec, StateViews& state) {
  StateLayout fields;
  for (const Moment& moment : moments) {
    add_moment_fields(fields, codec, moment, 1);
  }
  for (const StateField& field : fields) {
    const Tensor& values = state[field.name];
    std::fill(values.bytes(), values.bytes() + values.size_bytes(), std::byte{0});
  }
}

}  // namespace strata::optim
