// Which class updates matrices, and which settings it takes.
#include "core/error.h"
#include "optim/eigenbasis_update.h"
#include "optim/low_rank_update.h"
#include "optim/orthogonal.h"
#include "optim/selection_update.h"
#include "optim/turns.h"

namespace strata::optim {

std::unique_ptr<MatrixUpdate> make_matrix_update(SubspaceKind subspace,
                                                 bool orthogonal,
                                                 std::string_view method,
                                                 std::span<const Setting> settings) {
  if (orthogonal) {
    return std::make_unique<OrthogonalUpdate>(
        read_part<OrthogonalUpdate::Config>(method, settings));
  }
  if (subspace == SubspaceKind::eigenbasis) {
    return std::make_unique<EigenbasisUpdate>(
        read_part<EigenbasisUpdate::Config>(method, settings));
  }
  if (has_rank(subspace)) {
    return std::make_unique<LowRankUpdate>(subspace, method, settings);
  }
  if (subspace != SubspaceKind::whole && !takes_turns(subspace)) {
    return std::make_unique<SelectionUpdate>(subspace, method, settings);
  }
  return nullptr;
}

std::vector<SettingInfo> matrix_update_settings(SubspaceKind subspace,
                                                bool orthogonal,
                                                std::span<const Setting> settings) {
  if (orthogonal) {
    return list_settings<OrthogonalUpdate::Config>();
  }
  if (subspace == SubspaceKind::eigenbasis) {
    return list_settings<EigenbasisUpdate::Config>();
  }
  if (takes_turns(subspace)) {
    return turn_settings(subspace, settings);
  }
  std::vector<SettingInfo> known;
  if (subspace == SubspaceKind::whole) {
    return known;
  }
  const auto add = [&](std::vector<SettingInfo> more) {
    std::ranges::move(more, std::back_inserter(known));
  };
  add(list_settings<SubspaceParts>());
  add(has_rank(subspace) ? list_settings<RankParts>() : list_settings<DensityParts>());
  if (has_rank(subspace) && read_part<RankParts>("optim", settings).natural) {
    add(list_settings<NaturalParts>());
  }
  if (has_rank(subspace) && read_part<RankParts>("optim", settings).lazy) {
    add(list_settings<LazyParts>());
  }
  switch (read_part<SubspaceParts>("optim", settings).remainder) {
    case Remainder::discard:
      break;
    case Remainder::sign:
    case Remainder::sgd:
      add(list_settings<RestParts>());
      break;
    case Remainder::residual:
    case Remainder::channel:
    case Remainder::tensor:
      add(list_settings<ScalingParts>());
      break;
  }
  return known;
}

}  // namespace strata::optim
