#pragma once
#include "optim/matrix_update.h"

namespace strata::optim {

/// Newton-Schulz iteration towards the nearest semi-orthogonal matrix: five steps of the quintic of
/// Jordan et al. (Muon, 2024) on matrix / ||matrix||, in f32. matrix: (rows, columns) f32, in
/// place; all zeros stay. Singular values land in about [0.68, 1.13] where they were at least 0.01
/// of the norm.
void newton_schulz(const Tensor& matrix, int steps, std::span<std::byte> workspace, Stream& stream);
std::int64_t newton_schulz_workspace_bytes(std::int64_t rows, std::int64_t columns);

/// What an orthogonalised direction is multiplied by: sqrt(max(1, outputs / inputs)), or
/// 0.2 sqrt(max(outputs, inputs)), whose learning rate is AdamW's (Liu et al., Muon is scalable for
/// LLM training, 2025).
enum class NewtonSchulzScale : std::uint8_t { muon, moonlight };
constexpr std::array<std::string_view, 2> choices(NewtonSchulzScale) {
  return {"muon", "moonlight"};
}

/// Directions of matrices, orthogonalised. Fused projections are one matrix here.
class OrthogonalUpdate final : public MatrixUpdate {
 public:
  struct Config {
    std::int64_t ns_steps = 5;
    NewtonSchulzScale ns_scale = NewtonSchulzScale::muon;
    void fields(auto&& f) {
      f("ns_steps", ns_steps, "Newton-Schulz iterations");
      f("ns_scale", ns_scale, "of orthogonal directions: muon or moonlight (AdamW's rates)");
    }
    void validate() const {
      require(
          ns_steps >= 1 && ns_steps <= 20, "ns_steps", "1 to 20", static_cast<double>(ns_steps));
    }
  };
  explicit OrthogonalUpdate(const Config& config) : config_(config) {}
  void add_fields(const ParamInfo& param,
                  const Rule& rule,
                  StateCodec codec,
                  StateLayout& layout) const override;
  std::int64_t moment_numel(const ParamInfo& param) const override { return param.shape.numel(); }
  std::int64_t workspace_bytes(const ParamInfo& param) const override;
  void update(const MatrixStep& step) const override;
  bool of_image() const override { return false; }

 private:
  double scale_of(const ParamInfo& param) const;
  Config config_;
};

}  // namespace strata::optim
