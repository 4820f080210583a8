#include "tests/support/local_ranks.h"

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "core/error.h"

namespace strata::tests {

namespace {

/// Where the ranks meet: a barrier, a pointer per rank that is valid between two barriers, and
/// mailboxes.
class Meeting {
 public:
  explicit Meeting(int size)
      : pointers(static_cast<std::size_t>(size)),
        size_(size),
        gone_(static_cast<std::size_t>(size), false) {}

  void barrier(int rank) {
    std::unique_lock lock(mutex_);
    const int round = round_;
    if (++arrived_ == size_) {
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
      return;
    }
    const auto gone = [&] { return std::find(gone_.begin(), gone_.end(), true); };
    changed_.wait(lock, [&] { return round_ != round || gone() != gone_.end(); });
    if (round_ == round) {
      throw lost(rank, static_cast<int>(gone() - gone_.begin()));
    }
  }

  void put(int from, int to, int tag, std::span<const std::byte> bytes) {
    const std::scoped_lock lock(mutex_);
    mail_[{from, to, tag}].emplace_back(bytes.begin(), bytes.end());
    changed_.notify_all();
  }

  std::vector<std::byte> take(int from, int to, int tag) {
    std::unique_lock lock(mutex_);
    auto& box = mail_[{from, to, tag}];
    changed_.wait(lock, [&] { return !box.empty() || gone_[static_cast<std::size_t>(from)]; });
    if (box.empty()) {
      throw lost(to, from);
    }
    std::vector<std::byte> bytes = std::move(box.front());
    box.pop_front();
    return bytes;
  }

  void leave(int rank, std::exception_ptr error) {
    const std::scoped_lock lock(mutex_);
    gone_[static_cast<std::size_t>(rank)] = true;
    if (error && !first_error_) {
      first_error_ = error;
    }
    changed_.notify_all();
  }

  std::vector<const std::byte*> pointers;  // by rank
  std::exception_ptr first_error() const { return first_error_; }

 private:
  static Error lost(int rank, int peer) {
    return Error(Errc::comm,
                 "local ranks: rank " + std::to_string(rank) + " waits for rank " +
                     std::to_string(peer) + ", which is gone");
  }
  const int size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0, round_ = 0;
  std::vector<bool> gone_;
  std::exception_ptr first_error_;
  std::map<std::tuple<int, int, int>, std::deque<std::vector<std::byte>>> mail_;
};

class LocalCommunicator final : public Communicator {
 public:
  LocalCommunicator(Meeting& meeting, int rank, int size)
      : meeting_(meeting), rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void all_reduce(std::span<const Tensor> parts, const SumOrder& order) override {
    reduce(parts, order, {{0, parts[0].numel(), rank_}});
  }

  void reduce_scatter(std::span<const Tensor> parts,
                      const SumOrder& order,
                      std::span<const Share> shares) override {
    reduce(parts, order, {shares.begin(), shares.end()});
    // What is not summed here is undefined, and whoever reads it shall notice.
    const auto poison = [&](std::int64_t begin, std::int64_t end) {
      std::fill(parts[0].data<float>() + begin,
                parts[0].data<float>() + end,
                std::numeric_limits<float>::quiet_NaN());
    };
    std::int64_t done = 0;
    for (const Share& share : shares) {
      if (share.owner == rank_) {
        poison(done, share.begin);
        done = share.end;
      }
    }
    poison(done, parts[0].numel());
  }

  void all_gather(std::span<std::byte> bytes, std::span<const Share> shares) override {
    share(bytes.data(), [&] {
      for (const Share& s : shares) {
        if (s.owner != rank_) {
          std::copy(bytes_of(s.owner) + s.begin, bytes_of(s.owner) + s.end, bytes.data() + s.begin);
        }
      }
    });
  }

  void broadcast(std::span<std::byte> bytes, int root) override {
    share(bytes.data(), [&] {
      if (rank_ != root && !bytes.empty()) {
        std::memcpy(bytes.data(), bytes_of(root), bytes.size());
      }
    });
  }

  void gather_all(std::span<std::byte> out, std::span<const std::byte> mine) override {
    STRATA_ASSERT(out.size() == mine.size() * static_cast<std::size_t>(size_));
    share(mine.data(), [&] {
      for (int r = 0; r < size_ && !mine.empty(); ++r) {
        std::memcpy(
            out.data() + static_cast<std::size_t>(r) * mine.size(), bytes_of(r), mine.size());
      }
    });
  }

  void send(std::span<const std::byte> bytes, int to, int tag) override {
    meeting_.put(rank_, to, tag, bytes);
  }

  void recv(std::span<std::byte> bytes, int from, int tag) override {
    const std::vector<std::byte> message = meeting_.take(from, rank_, tag);
    STRATA_ASSERT(message.size() == bytes.size());
    std::copy(message.begin(), message.end(), bytes.begin());
  }

  void barrier() override { meeting_.barrier(rank_); }

  [[noreturn]] void abort(int exit_code) noexcept override { std::_Exit(exit_code); }

 private:
  /// Runs `read` while every rank's pointer is visible to all and nobody writes.
  template <class Read>
  void share(const std::byte* mine, const Read& read) {
    meeting_.pointers[static_cast<std::size_t>(rank_)] = mine;
    meeting_.barrier(rank_);
    read();
    meeting_.barrier(rank_);
  }
  const std::byte* bytes_of(int rank) const {
    return meeting_.pointers[static_cast<std::size_t>(rank)];
  }

  /// The sum of one element, by the letter of its order.
  float sum(const SumOrder& order, std::int64_t element) const {
    std::vector<float> contributions, stack;
    for (int r = 0; r < size_; ++r) {
      const auto* parts = reinterpret_cast<const std::vector<const float*>*>(bytes_of(r));
      STRATA_ASSERT(static_cast<int>(parts->size()) == order.parts[static_cast<std::size_t>(r)]);
      for (const float* part : *parts) {
        contributions.push_back(part[element]);
      }
    }
    for (const int step : order.steps) {
      if (step == SumOrder::kAdd) {
        const float right = stack.back();
        stack.pop_back();
        stack.back() = stack.back() + right;
      } else {
        stack.push_back(contributions[static_cast<std::size_t>(step)]);
      }
    }
    return stack.back();
  }

  void reduce(std::span<const Tensor> parts,
              const SumOrder& order,
              const std::vector<Share>& shares) {
    std::vector<const float*> pointers;
    for (const Tensor& part : parts) {
      pointers.push_back(part.data<float>());
    }
    std::vector<std::pair<std::int64_t, float>> sums;
    share(reinterpret_cast<const std::byte*>(&pointers), [&] {
      for (const Share& s : shares) {
        for (std::int64_t i = s.begin; i < s.end && s.owner == rank_; ++i) {
          sums.emplace_back(i, sum(order, i));
        }
      }
    });
    for (const auto& [i, value] : sums) {
      parts[0].data<float>()[i] = value;
    }
  }

  Meeting& meeting_;
  const int rank_, size_;
};

}  // namespace

void LocalRanks::run(const std::function<void(Communicator&)>& body) const {
  Meeting meeting(size_);
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < size_; ++rank) {
      threads.emplace_back([&, rank] {
        LocalCommunicator communicator(meeting, rank, size_);
        std::exception_ptr error;
        try {
          body(communicator);
        } catch (...) {
          error = std::current_exception();
        }
        meeting.leave(rank, error);
      });
    }
  }
  if (const std::exception_ptr error = meeting.first_error(); error) {
    std::rethrow_exception(error);
  }
}

}  // namespace strata::tests
