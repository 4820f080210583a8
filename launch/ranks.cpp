#include "launch/ranks.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

#include "core/parallel_for.h"
#include "launch/machine.h"
#include "parallel/launcher.h"
#include "parallel/mpi_communicator.h"
#include "parallel/self_communicator.h"

namespace strata::launch {
namespace {

/// How a rank's work went, of a fixed size, so that one gather is enough.
struct Verdict {
  std::int32_t code = 0;  // 0: well
  std::array<char, 1020> text{};
};

Verdict verdict_of(const std::function<void()>& work) {
  Verdict verdict;
  const auto failed = [&](Errc code, const char* what) {
    verdict.code = static_cast<std::int32_t>(code);
    std::strncpy(verdict.text.data(), what, verdict.text.size() - 1);
  };
  try {
    work();
  } catch (const Error& error) {
    failed(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    failed(Errc::internal, "the system refused memory outside the planned arenas");
  } catch (const std::exception& error) {
    failed(Errc::internal, error.what());
  }
  return verdict;
}

/// A rank that fails alone has to end the others. When all fail alike, only the first need speak:
/// the others give it time to.
[[noreturn]] void end_all(Communicator& ranks, int code, const char* what) {
  if (ranks.rank() > 0) {
    std::this_thread::sleep_for(std::chrono::seconds(1));
  }
  std::fprintf(stderr, "strata: rank %d: %s\n", ranks.rank(), what);
  std::fflush(stderr);
  ranks.abort(code);
  std::_Exit(code);  // g++ 12 does not see that a virtual call never returns
}

int run_several(Communicator& ranks, const std::function<int(Communicator&)>& body) {
  try {
    return body(ranks);
  } catch (const AgreedError& error) {
    if (error.ours()) {
      std::fprintf(stderr, "strata: %s\n", error.what());
    }
    return error.exit_code();
  } catch (const Error& error) {
    end_all(ranks, error.exit_code(), error.what());
  } catch (const std::exception& error) {
    end_all(ranks, static_cast<int>(Errc::internal), error.what());
  }
}

}  // namespace

void together(Communicator& ranks, const std::function<void()>& work) {
  const Verdict mine = verdict_of(work);
  std::vector<Verdict> all(static_cast<std::size_t>(ranks.size()));
  ranks.gather_all(std::as_writable_bytes(std::span(all)), std::as_bytes(std::span(&mine, 1)));
  const auto first = std::find_if(all.begin(), all.end(), [](const Verdict& v) { return v.code; });
  if (first != all.end()) {
    throw AgreedError(Error(static_cast<Errc>(first->code), first->text.data()),
                      first - all.begin() == ranks.rank());
  }
}

std::string text_of_first(Communicator& ranks, const std::string& mine) {
  auto size = static_cast<std::int64_t>(mine.size());
  ranks.broadcast(std::as_writable_bytes(std::span(&size, 1)), 0);
  std::string text = mine;
  text.resize(static_cast<std::size_t>(size));
  ranks.broadcast(std::as_writable_bytes(std::span(text)), 0);
  return text;
}

int with_ranks(double timeout_seconds, const std::function<int(Communicator&)>& body) {
  if (!parallel::under_mpi_launcher()) {
    parallel::SelfCommunicator self;
    return body(self);
  }
  const auto ranks = parallel::make_mpi_communicator({.timeout_seconds = timeout_seconds});
  return run_several(*ranks, body);
}

RankPlace place_of(const Communicator& ranks) {
  const auto place = parallel::local_place_from_launcher();
  return {ranks.rank(), ranks.size(), place ? place->size : 1};
}

bool speaks_first() {
  const auto place = parallel::local_place_from_launcher();
  return !place || place->rank == 0;
}

void require_one_rank(std::string_view command) {
  if (const int ranks = parallel::ranks_of_launcher(); ranks > 1) {
    throw Error(
        Errc::config,
        fmt::format("strata {} is made for one process, got {} ranks of a launcher; start "
                    "it without mpirun (train, resume, doctor, bench step and bench allreduce take "
                    "several)",
                    command,
                    ranks));
  }
}

int fair_cores() {
  const auto place = parallel::local_place_from_launcher();
  return std::max(
      1, static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)) / (place ? std::max(1, place->size) : 1));
}

void share_cores(Communicator& ranks, std::int64_t threads) {
  const auto place = parallel::local_place_from_launcher();
  if (!place) {
    if (threads > 0) {
      set_thread_count(static_cast<int>(threads));
    }
    return;
  }
  if (threads > 0 || std::getenv("OMP_NUM_THREADS") == nullptr) {
    set_thread_count(threads > 0 ? static_cast<int>(threads)
                                 : std::min(cores_allowed(), fair_cores()));
  }
  const std::int32_t missing = std::max(0, fair_cores() - cores_allowed());
  std::vector<std::int32_t> all(static_cast<std::size_t>(ranks.size()));
  ranks.gather_all(std::as_writable_bytes(std::span(all)), std::as_bytes(std::span(&missing, 1)));
  const auto bound = std::find_if(all.begin(), all.end(), [](std::int32_t m) { return m > 0; });
  if (ranks.rank() == 0 && bound != all.end()) {
    std::fprintf(stderr,
                 "strata: warning: rank %d may use %d fewer cores than its share of the machine; "
                 "start with mpirun --bind-to none\n",
                 static_cast<int>(bound - all.begin()),
                 static_cast<int>(*bound));
  }
}

}  // namespace strata::launch
