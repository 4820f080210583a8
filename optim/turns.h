#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "optim/subspace.h"

namespace strata::optim {

/// Who is next.
enum class TurnOrder : std::uint8_t {
  ascending,
  descending,
  shuffled,  // each once in a round, every round in another order
  drawn,     // anew in each period, whoever it was before
};
constexpr std::array<std::string_view, 4> choices(TurnOrder) {
  return {"ascending", "descending", "shuffled", "drawn"};
}
/// What the first and the last block, embedding and head, do while decoder blocks take turns.
enum class Ends : std::uint8_t { frozen, always, in_turn };
constexpr std::array<std::string_view, 3> choices(Ends) {
  return {"frozen", "always", "in_turn"};
}

/// Of subspaces whose tensors take turns.
struct TurnParts {
  std::int64_t refresh_every = 50;
  TurnOrder order = TurnOrder::shuffled;
  Remainder remainder = Remainder::discard;
  void fields(auto&& f) {
    f("refresh_every", refresh_every, "steps of a turn; state begins and ends with it");
    f("order", order, "whose turn is next: ascending, descending, shuffled or drawn");
    f("remainder", remainder, "what waits: discard (it stays), or moves by sign or sgd");
  }
  void validate() const;
};
/// Of whole blocks.
struct BlockTurnParts {
  std::int64_t blocks = 1;
  Ends ends = Ends::frozen;
  void fields(auto&& f) {
    f("blocks", blocks, "decoder blocks that train at a time");
    f("ends", ends, "embedding and head: frozen, always or in_turn");
  }
  void validate() const {
    require(blocks >= 1, "blocks", "a value of at least 1", static_cast<double>(blocks));
  }
};

/// Whose turn it is to have state: some matrices of the model, the others moving without (FRUGAL's
/// block mode), or some blocks, the others frozen (BAdam, LISA). State is discarded with each
/// change, so its bytes are those of the largest choice.
///
/// Luo et al., BAdam: a memory efficient full parameter optimization method for large language
/// models, NeurIPS 2024; Pan et al., LISA: layerwise importance sampling for memory-efficient large
/// language model fine-tuning, NeurIPS 2024; Zmushko et al., FRUGAL, 2024.
class TurnTaking {
 public:
  TurnTaking(SubspaceKind kind, std::string_view method, std::span<const Setting> settings);
  std::int64_t period_steps() const { return parts_.refresh_every; }
  bool freezes() const {
    return kind_ == SubspaceKind::blocks && parts_.remainder == Remainder::discard;
  }
  std::vector<std::vector<Turn>> turns(std::span<const BlockSpec> blocks,
                                       std::int64_t period,
                                       std::uint64_t seed) const;
  /// The direction of what waits, of its clipped gradient g.
  float waiting(float g) const;

 private:
  std::vector<std::int64_t> chosen(std::int64_t from,
                                   std::int64_t count,
                                   std::int64_t period,
                                   std::uint64_t seed) const;

  SubspaceKind kind_;
  TurnParts parts_;
  BlockTurnParts blocks_;
  DensityParts density_;
  RestParts rest_;
};
/// Those of the parts in use.
std::vector<SettingInfo> turn_settings(SubspaceKind kind, std::span<const Setting> settings);

}  // namespace strata::optim
