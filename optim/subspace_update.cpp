#include "optim/composed.h"
#include "optim/orthogonal.h"

namespace strata::optim {
std::unique_ptr<MatrixUpdate> make_matrix_update(SubspaceKind,
                                                 bool orthogonal,
                                                 std::string_view method,
                                                 std::span<const Setting> settings) {
  if (orthogonal) {
    return std::make_unique<OrthogonalUpdate>(
        read_part<OrthogonalUpdate::Config>(method, settings));
  }
  return nullptr;
}
std::vector<SettingInfo> matrix_update_settings(SubspaceKind,
                                                bool orthogonal,
                                                std::span<const Setting>) {
  return orthogonal ? list_settings<OrthogonalUpdate::Config>() : std::vector<SettingInfo>();
}
}  // namespace strata::optim
