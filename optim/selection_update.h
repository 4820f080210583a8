#pragma once
#include "optim/matrix_update.h"

namespace strata::optim {

/// Moments of some elements of a matrix, chosen anew from the seed in each period: columns, rows,
/// or as many elements of every 4096. The others follow their gradient without state: FRUGAL.
///
///   moved elements: N = rule(G);  the others: rest_lr sign(G), rest_lr G, or nothing
///
/// State: moments of the chosen elements; the choice itself is a function of (seed, refresh,
/// tensor). Zmushko et al., FRUGAL: memory-efficient optimization by reducing state overhead for
/// scalable training, 2024.
class SelectionUpdate final : public MatrixUpdate {
 public:
  SelectionUpdate(SubspaceKind kind, std::string_view method, std::span<const Setting> settings);
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
  struct Choice;
  Choice choice_of(const ParamInfo& param) const;
  void choose(const Choice& choice, const RandomKey& key, const Room& room) const;

  SubspaceKind kind_;
  SubspaceParts common_;
  DensityParts density_;
  RestParts rest_;
};

}  // namespace strata::optim
