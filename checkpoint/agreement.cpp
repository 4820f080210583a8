#include "checkpoint/agreement.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <span>
#include <string_view>

#include <fmt/format.h>

namespace strata::checkpoint {
namespace {

/// What travels: a fixed size, so that one gather or broadcast is enough.
struct Verdict {
  std::int32_t code = 0;  // 0: in favour
  std::int32_t size = 0;
  std::array<char, 1016> text{};

  void set(std::string_view words) {
    size = static_cast<std::int32_t>(std::min(words.size(), text.size()));
    std::memcpy(text.data(), words.data(), static_cast<std::size_t>(size));
  }
  std::string_view words() const { return {text.data(), static_cast<std::size_t>(size)}; }
};

Verdict verdict_of(const std::optional<Error>& failure) {
  Verdict verdict;
  if (failure) {
    verdict.code = failure->exit_code();
    verdict.set(failure->what());
  }
  return verdict;
}

}  // namespace

std::optional<Error> failure_of(const std::function<void()>& work) noexcept {
  try {
    work();
    return std::nullopt;
  } catch (const Error& error) {
    return error;
  } catch (const std::exception& error) {
    return Error(Errc::internal, fmt::format("checkpoint: {}", error.what()));
  }
}

std::vector<std::int64_t> gather(Communicator& ranks, std::int64_t mine) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(ranks.size()));
  ranks.gather_all(std::as_writable_bytes(std::span(all)), std::as_bytes(std::span(&mine, 1)));
  return all;
}

void vote(Communicator& ranks, const std::optional<Error>& failure) {
  const Verdict mine = verdict_of(failure);
  std::vector<Verdict> all(static_cast<std::size_t>(ranks.size()));
  ranks.gather_all(std::as_writable_bytes(std::span(all)), std::as_bytes(std::span(&mine, 1)));
  if (failure) {
    throw *failure;
  }
  const auto against =
      std::find_if(all.begin(), all.end(), [](const Verdict& v) { return v.code != 0; });
  if (against != all.end()) {
    throw Error(static_cast<Errc>(against->code),
                fmt::format("checkpoint: rank {}: {}", against - all.begin(), against->words()));
  }
}

std::string decide_on_first(Communicator& ranks, const std::function<std::string()>& work) {
  Verdict verdict;
  if (ranks.rank() == 0) {
    std::string answer;
    verdict = verdict_of(failure_of([&] { answer = work(); }));
    if (verdict.code == 0) {
      verdict.set(answer);
    }
  }
  ranks.broadcast(std::as_writable_bytes(std::span(&verdict, 1)), 0);
  if (verdict.code != 0) {
    throw Error(static_cast<Errc>(verdict.code), std::string(verdict.words()));
  }
  return std::string(verdict.words());
}

}  // namespace strata::checkpoint
