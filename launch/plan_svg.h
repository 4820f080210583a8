#pragma once
#include <string>

#include "launch/activations.h"

namespace strata::launch {

/// A step on virtual time as a picture of its own: one lane for compute and for each link, a
/// rectangle for whatever takes time there, stalls among what computes; below, a bar for each tier
/// with the bytes of its fullest moment by label.
std::string plan_svg(const Planned& planned);

}  // namespace strata::launch
