#pragma once
#include "optim/matrix_update.h"

namespace strata::optim {

/// A rule in the eigenbasis of the gradient's two covariances: SOAP.
///
///   L <- L + (1 - beta)(G G^T - L);  R <- R + (1 - beta)(G^T G - R);  rows of P, Q: their bases
///   direction = P^T rule(P G Q^T) Q
///
/// The first gradient that is not zero only starts the bases. Every `refresh_every` steps they are
/// sorted and turned towards L and R by one step of power iteration; signed moments are turned with
/// them, moments of squares sorted. Sides longer than kLongest are left as they are. State: moments
/// and 8 (a^2 + b^2) bytes: a reference for quality, not for memory. Vyas et al., SOAP: improving
/// and stabilizing Shampoo using Adam, ICLR 2025.
class EigenbasisUpdate final : public MatrixUpdate {
 public:
  struct Config {
    double covariance_beta = 0.95;
    std::int64_t refresh_every = 10;
    void fields(auto&& f) {
      f("covariance_beta", covariance_beta, "decay rate of the gradient's covariances");
      f("refresh_every", refresh_every, "steps between turns of the bases");
    }
    void validate() const {
      require(covariance_beta >= 0 && covariance_beta < 1,
              "covariance_beta",
              "0 <= covariance_beta < 1",
              covariance_beta);
      require(refresh_every >= 1,
              "refresh_every",
              "a value of at least 1",
              static_cast<double>(refresh_every));
    }
  };
  static constexpr std::int64_t kLongest = 10'000;

  explicit EigenbasisUpdate(const Config& config) : config_(config) {}
  void add_fields(const ParamInfo& param,
                  const Rule& rule,
                  StateCodec codec,
                  StateLayout& layout) const override;
  std::int64_t moment_numel(const ParamInfo& param) const override { return param.shape.numel(); }
  std::int64_t workspace_bytes(const ParamInfo& param) const override;
  void update(const MatrixStep& step) const override;
  bool of_image() const override { return true; }
  bool changes_moments() const override { return true; }

 private:
  struct Room;
  struct Side;
  void start(const MatrixStep& step, const Room& room) const;
  void enter_gradient(const MatrixStep& step, const Room& room, double mix) const;
  void turn_bases(const MatrixStep& step, const Room& room) const;
  Config config_;
};

}  // namespace strata::optim
