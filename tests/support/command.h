#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/types.h>

namespace strata::tests {

/// How a run of the program ended, and what it said.
struct CommandEnd {
  int exit_code = -1;      // when it exited
  int signal = 0;          // when a signal ended it
  bool timed_out = false;  // it was killed because it took too long
  std::string out, err;
  /// One line for a failure message: how it ended and all that it said.
  std::string text() const;
};

struct CommandOptions {
  std::vector<std::pair<std::string, std::string>> environment = {};  // added to ours
  std::string directory = {};                                         // to run in; empty: ours
  int ranks = 0;  // started by mpirun with so many, cores shared out among them; 0: without it
  std::vector<std::string> launcher = {};  // more words for mpirun
  std::int64_t file_limit_bytes = 0;       // RLIMIT_FSIZE; 0: none
  std::chrono::seconds timeout{120};       // then it is killed
};

/// The built program `strata`, started with these words; killed if it still runs at the end. Its
/// standard input is empty, its signal handlers are the default ones. Variables of ours that set
/// the program (STRATA_SECTION__KEY, STRATA_KILL_AT) do not reach it.
class Command {
 public:
  explicit Command(std::vector<std::string> words, CommandOptions options = {});
  ~Command();
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  pid_t pid() const { return pid_; }
  /// Processes that it has started and that live: the ranks, in order, when it is mpirun.
  std::vector<pid_t> children() const;
  /// Waits until standard error contains `text`; false when the program ends without it.
  bool wait_for_err(std::string_view text);
  void signal(int number) const;
  /// Waits for the end. Afterwards only the destructor may be called.
  CommandEnd wait();

 private:
  bool pump();  // reads what is there; false at the end of both streams

  pid_t pid_ = -1;
  int out_ = -1, err_ = -1;
  std::chrono::steady_clock::time_point deadline_;
  CommandEnd end_;
};

/// Where mpirun is; empty when it is not installed.
std::string mpirun();

/// Runs the program to its end.
CommandEnd run_command(std::vector<std::string> words, CommandOptions options = {});

}  // namespace strata::tests
