#pragma once
#include <vector>

#include "launch/fields.h"

namespace strata::launch {

/// Settings of where bytes may be, and how many: a part of fields().
std::vector<Field> tier_fields();

}  // namespace strata::launch
