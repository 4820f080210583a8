#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "offload/activation_choice.h"

namespace strata::launch {

/// memory.recompute, before it meets a model.
struct RecomputeSetting {
  bool automatic = false;
  offload::Recompute every = offload::Recompute::none;  // of blocks that no range names
  struct Range {
    std::int64_t first = 0, last = 0;  // decoder blocks, both named
    offload::Recompute recompute = offload::Recompute::none;
  };
  std::vector<Range> ranges = {};  // in order, apart from each other
};

/// "auto", "none", "elementwise", "mlp", "projections", "block", or ranges:
/// "0-5:block,6:elementwise". Absent: none of these, or a block named twice.
std::optional<RecomputeSetting> parse_recompute(std::string_view text);
/// Equal settings have equal texts.
std::string to_string(const RecomputeSetting& setting);
/// The setting without what has no say in which values backward finds: a block that is computed
/// again as a whole finds what one does that keeps all, and `auto` chooses between them where
/// codecs are lossy. Equal ones give equal bits with every codec.
RecomputeSetting what_is_kept(RecomputeSetting setting);
/// What parse_recompute accepts, for messages.
inline constexpr std::string_view kRecomputeTexts =
    "auto, none, elementwise, mlp, projections, block, or ranges of decoder blocks such as "
    "0-5:block,6:elementwise";

/// One for each of L decoder blocks; the setting is not automatic. Throws config when it names a
/// block that is not there.
offload::RecomputeChoice choice_of(const RecomputeSetting& setting, std::int64_t L);

}  // namespace strata::launch
