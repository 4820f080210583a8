#pragma once
#include <string>

#include "launch/job.h"

namespace strata::launch {

/// One line about model, step and data, one about memory, to stderr, before a run begins.
void print_summary(const Job& job);

}  // namespace strata::launch
