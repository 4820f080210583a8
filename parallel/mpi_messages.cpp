#include "parallel/mpi_messages.h"

#include <algorithm>
#include <array>
#include <string>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"

namespace strata::parallel {
namespace {

// A wait asks MPI without rest for a moment, then lets other processes run, then sleeps between.
constexpr auto kWithoutRest = std::chrono::microseconds(50);
constexpr auto kYielding = std::chrono::milliseconds(2);
constexpr auto kNap = std::chrono::microseconds(100);
constexpr auto kBetweenChecks = std::chrono::milliseconds(10);
enum BoxTag : int { kCommon = 0, kPersonal = 1 };

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) {
    return;
  }
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw Error(Errc::comm, fmt::format("{}: {}", call, text.data()));
}

Messages::Messages(MPI_Comm communicator, std::int64_t limit_bytes, Watch& watch)
    : communicator_(communicator), limit_bytes_(limit_bytes), watch_(watch) {}

template <class Start>
void Messages::start(std::int64_t bytes, int peer, const Start& start) {
  for (std::int64_t at = 0; at < bytes; at += limit_bytes_) {
    requests_.push_back(MPI_REQUEST_NULL);
    peers_.push_back(peer);
    start(at, static_cast<int>(std::min(limit_bytes_, bytes - at)), &requests_.back());
  }
}

void Messages::send(std::span<const std::byte> bytes, int to, int tag) {
  start(static_cast<std::int64_t>(bytes.size()),
        to,
        [&](std::int64_t at, int count, MPI_Request* request) {
          check_mpi(MPI_Isend(bytes.data() + at, count, MPI_BYTE, to, tag, communicator_, request),
                    "MPI_Isend");
        });
}

void Messages::recv(std::span<std::byte> bytes, int from, int tag) {
  start(static_cast<std::int64_t>(bytes.size()),
        from,
        [&](std::int64_t at, int count, MPI_Request* request) {
          check_mpi(
              MPI_Irecv(bytes.data() + at, count, MPI_BYTE, from, tag, communicator_, request),
              "MPI_Irecv");
        });
}

bool Messages::are_done() {
  if (requests_.empty()) {
    return true;
  }
  int count = 0;
  completed_.resize(requests_.size());
  check_mpi(MPI_Testsome(static_cast<int>(requests_.size()),
                         requests_.data(),
                         &count,
                         completed_.data(),
                         MPI_STATUSES_IGNORE),
            "MPI_Testsome");
  if (std::ranges::any_of(requests_, [](MPI_Request r) { return r != MPI_REQUEST_NULL; })) {
    return false;
  }
  requests_.clear();
  peers_.clear();
  return true;
}

void Messages::check_all(const char* operation, Watch::Clock::time_point since) {
  missing_.clear();
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i] != MPI_REQUEST_NULL) {
      missing_.push_back(peers_[i]);
    }
  }
  std::ranges::sort(missing_);
  missing_.erase(std::unique(missing_.begin(), missing_.end()), missing_.end());
  watch_.check(operation, since, missing_);
}

void Messages::wait(const char* operation) {
  const Watch::Clock::time_point since = Watch::Clock::now();
  Watch::Clock::time_point checked = since;
  while (!are_done()) {
    const Watch::Clock::time_point now = Watch::Clock::now();
    if (now - since > kYielding) {
      std::this_thread::sleep_for(kNap);
    } else if (now - since > kWithoutRest) {
      std::this_thread::yield();
    }
    if (now - checked > kBetweenChecks) {
      checked = now;
      check_all(operation, since);
    }
  }
}

void BufferedSends::send(std::span<const std::byte> bytes, int to, int tag) {
  poll();
  auto free = std::ranges::find(sent_, false, &Sent::in_flight);
  if (free == sent_.end()) {
    sent_.push_back({{}, Messages(communicator_, limit_bytes_, watch_)});
    free = std::prev(sent_.end());
  }
  free->bytes.assign(bytes.begin(), bytes.end());
  free->messages.send(free->bytes, to, tag);
  free->in_flight = true;
}

bool BufferedSends::poll() {
  bool some = false;
  for (Sent& sent : sent_) {
    if (sent.in_flight) {
      sent.in_flight = !sent.messages.are_done();
      some = some || sent.in_flight;
    }
  }
  return some;
}

void BufferedSends::wait(const char* operation) {
  for (Sent& sent : sent_) {
    if (sent.in_flight) {
      sent.messages.wait(operation);
      sent.in_flight = false;
    }
  }
}

NetworkBoxes::NetworkBoxes(int rank, int size, std::int64_t capacity_bytes, Messages messages)
    : Boxes(rank, size, capacity_bytes),
      mine_(static_cast<std::size_t>(capacity_bytes)),
      mirrors_(static_cast<std::size_t>(2 * capacity_bytes)),
      messages_(std::move(messages)) {}

void NetworkBoxes::meet(const char* operation, const Traffic& traffic) {
  const auto size_of = [](std::int64_t bytes) { return static_cast<std::size_t>(bytes); };
  for (int step = 1; step < size(); ++step) {
    const int peer = (rank() + size() - step) % size();
    const auto p = static_cast<std::size_t>(peer);
    messages_.recv({mirror(peer), size_of(traffic.common_from[p])}, peer, kCommon);
    messages_.recv({mirror(peer) + common_bytes_, size_of(traffic.from[p])}, peer, kPersonal);
  }
  for (int step = 1; step < size(); ++step) {  // not all to the same rank at once
    const int peer = (rank() + step) % size();
    const auto p = static_cast<std::size_t>(peer);
    messages_.send({common(), size_of(traffic.common)}, peer, kCommon);
    messages_.send({for_rank(peer), size_of(traffic.to[p])}, peer, kPersonal);
  }
  messages_.wait(operation);
}

}  // namespace strata::parallel
