#pragma once
#include <string>
#include <vector>

#include "launch/activations.h"
#include "launch/job.h"

namespace strata::launch {

/// The plan of a job, as its settings say. Throws infeasible, with remedies, when none of several
/// placings fits; one that lies in the device alone is returned as it is.
Planned plan_job(const Job& job);

/// A change with which a job's plan fits.
struct Remedy {
  std::string flag;  // as a command line takes it; two settings where they go together
  std::string note;  // what it costs
};
/// Up to three, each tried by planning the job with it, cheapest first: what leaves bits and work
/// alone, what redoes work, what takes more memory, what changes bits.
std::vector<Remedy> remedies(const Job& job, const offload::Misfit& misfit);

/// Throws infeasible when the plan does not fit, with what is missing and the remedies.
void require_fit(const Job& job, const Planned& planned);

}  // namespace strata::launch
