#pragma once

namespace strata::cpu {

/// Runs job(context) once on each of `members` threads, one of which is the caller, and returns
/// when all are done. The job must not throw. Implemented on OpenMP, so that our loops and the
/// matrix library share one team; on std::jthread in builds whose sanitizer cannot see into
/// libgomp.
void run_team(int members, void (*job)(void*), void* context);

/// Gives libraries that open the team by themselves (oneDNN) the same number of members. Cheap;
/// called by the thread that is about to enter such a library.
void share_team(int members);

}  // namespace strata::cpu
