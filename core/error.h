#pragma once
#include <source_location>
#include <stdexcept>
#include <string>

namespace strata {

/// What went wrong; the value is the exit code of the program (README, "Exit codes").
enum class Errc : int {
  internal = 1,      // our bug
  config = 2,        // usage, settings, a run directory in use
  infeasible = 3,    // the plan does not fit the budgets
  data = 4,          // training text, tokenizer, prompts
  format = 5,        // model or checkpoint files
  numerics = 6,      // non-finite values, replicas that differ
  comm = 7,          // a peer was lost or a collective timed out
  io = 8,            // device errors, disk full
  interrupted = 75,  // asked to stop; everything is saved
};

/// The one exception type. Message: who, what was needed, what came, what to change, in one line.
class Error : public std::runtime_error {
 public:
  Error(Errc code,
        const std::string& message,
        std::source_location where = std::source_location::current());
  Errc code() const noexcept { return code_; }
  int exit_code() const noexcept { return static_cast<int>(code_); }
  const std::source_location& where() const noexcept { return where_; }

 private:
  Errc code_;
  std::source_location where_;
};

[[noreturn]] void assertion_failed(const char* condition,
                                   std::source_location where = std::source_location::current());

}  // namespace strata

/// Our bug only, never input: throws Error(Errc::internal) naming the condition and the place.
#define STRATA_ASSERT(condition)              \
  do {                                        \
    if (!(condition)) {                       \
      ::strata::assertion_failed(#condition); \
    }                                         \
  } while (false)
