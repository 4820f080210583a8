#pragma once
#include "core/compress/low_rank.h"
#include "optim/matrix_update.h"

namespace strata::optim {

/// Moments of a matrix in few dimensions of its short side: GaLore, Fira, APOLLO, FRUGAL's SVD.
///
///   R = project(G);  N = rule(R);  direction = scale back(N) + remainder
///
/// State: moments of R, the basis unless it is drawn again in each step, the limited norm. Zhao et
/// al., GaLore, ICML 2024; Chen et al., Fira, 2024; Zhu et al., APOLLO, MLSys 2025; Zmushko et al.,
/// FRUGAL, 2024.
class LowRankUpdate final : public MatrixUpdate {
 public:
  LowRankUpdate(SubspaceKind kind, std::string_view method, std::span<const Setting> settings);
  void add_fields(const ParamInfo& param,
                  const Rule& rule,
                  StateCodec codec,
                  StateLayout& layout) const override;
  std::int64_t moment_numel(const ParamInfo& param) const override;
  std::int64_t workspace_bytes(const ParamInfo& param) const override;
  void update(const MatrixStep& step) const override;
  bool of_image() const override { return true; }

 private:
  struct Room;
  LowRankShape shape_of(const ParamInfo& param) const;
  bool keeps_basis() const { return kind_ != SubspaceKind::gaussian; }
  bool scales_gradient() const {
    return common_.remainder == Remainder::channel || common_.remainder == Remainder::tensor;
  }
  bool natural() const { return low_rank_.natural; }
  bool limits() const {
    return scaling_.limit_growth && (scales_gradient() || common_.remainder == Remainder::residual);
  }
  std::int64_t basis_workspace_bytes(const LowRankShape& shape) const;
  struct Period {
    std::int64_t since = 0;    // steps since the basis was made; 0: it is made now
    std::uint64_t number = 0;  // of the basis, in the key of its random numbers
  };
  Period period_of(const MatrixStep& step) const;
  void new_basis(const MatrixStep& step,
                 const LowRankShape& shape,
                 const Room& room,
                 const RandomKey& key) const;
  void make_natural(const MatrixStep& step,
                    const LowRankShape& shape,
                    const Room& room,
                    const Period& period) const;
  void move_by_image(const MatrixStep& step,
                     const LowRankShape& shape,
                     const Room& room,
                     double factor) const;
  void move_by_scaled_gradient(const MatrixStep& step,
                               const LowRankShape& shape,
                               const Room& room,
                               double factor) const;
  double limit(const MatrixStep& step, double norm) const;

  SubspaceKind kind_;
  SubspaceParts common_;
  RankParts low_rank_;
  NaturalParts natural_;
  LazyParts lazy_;
  ScalingParts scaling_;
  RestParts rest_;
};

}  // namespace strata::optim
