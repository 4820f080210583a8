#pragma once
#include <cstdint>
#include <memory>
#include <span>

#include "optim/matrix_shape.h"
#include "optim/optimizer.h"
#include "optim/rule.h"
#include "optim/subspace.h"

namespace strata::optim {

/// One matrix in one step: everything that an update of it reads and writes.
struct MatrixStep {
  const Slice& weight;  // the whole matrix
  const float* grad;
  float scale;  // of the gradient
  StateViews& state;
  const Rule& rule;
  StateCodec codec;
  quant::ZeroCode zero_code;
  double coupled_decay;
  WeightStep by;  // size is lr alone, without the rule's factor
  const StepInfo& info;
  std::span<std::byte> workspace;
  Stream& stream;
};

/// How matrices are updated that are not updated element by element.
class MatrixUpdate {
 public:
  virtual ~MatrixUpdate() = default;
  virtual void add_fields(const ParamInfo& param,
                          const Rule& rule,
                          StateCodec codec,
                          StateLayout& layout) const = 0;
  /// Elements that moments have: the codec's threshold looks at it.
  virtual std::int64_t moment_numel(const ParamInfo& param) const = 0;
  virtual std::int64_t workspace_bytes(const ParamInfo& param) const = 0;
  virtual void update(const MatrixStep& step) const = 0;
  /// Whether the rule sees an image of the matrix and not the matrix itself.
  virtual bool of_image() const = 0;
  /// Whether moments are changed between steps, which needs them in f32.
  virtual bool changes_moments() const { return false; }
};

/// Null when matrices are updated element by element. Throws config.
std::unique_ptr<MatrixUpdate> make_matrix_update(SubspaceKind subspace,
                                                 bool orthogonal,
                                                 std::string_view method,
                                                 std::span<const Setting> settings);
std::vector<SettingInfo> matrix_update_settings(SubspaceKind subspace,
                                                bool orthogonal,
                                                std::span<const Setting> settings);

/// Zero bytes into the moments.
void clear_moments(std::span<const Moment> moments, StateCodec codec, StateViews& state);

/// RuleLoop over a whole image of a matrix, with the moments in its codec.
RuleLoop<float> image_loop(const MatrixStep& step, std::int64_t numel);

}  // namespace strata::optim
