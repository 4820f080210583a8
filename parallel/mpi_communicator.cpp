#include "parallel/mpi_communicator.h"

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include <fmt/format.h>
#include <unistd.h>

#include "core/error.h"
#include "core/parallel_for.h"
#include "parallel/box_collectives.h"
#include "parallel/mpi_machine.h"
#include "parallel/mpi_messages.h"
#include "parallel/shared_boxes.h"

namespace strata::parallel {
namespace {

// Pieces of a sum stay in the caches that cores share; messages are worth their latency.
constexpr std::int64_t kWindowBoxBytes = std::int64_t{512} << 10;
constexpr std::int64_t kNetworkBoxBytes = std::int64_t{4} << 20;
constexpr std::int64_t kSmallestBox = 4096;
// Peers that share memory learn of an abort and say so before the launcher ends them.
constexpr auto kLastWords = std::chrono::milliseconds(100);
// Longer than a round: a rank that slept is late for the next one too, where others run beside it.
constexpr std::int64_t kSpinNs = 1'000'000;
constexpr std::int64_t kCrowdedSpinNs = 2'000;  // a peer may need this very core to arrive

using Path = MpiOptions::Path;

Path chosen_path(Path asked) {
  const char* const text = std::getenv("STRATA_COMM");
  if (asked != Path::automatic || text == nullptr || std::string_view(text) == "automatic") {
    return asked;
  }
  if (std::string_view(text) == "window") {
    return Path::window;
  }
  if (std::string_view(text) == "network") {
    return Path::network;
  }
  throw Error(Errc::config,
              fmt::format("STRATA_COMM needs window, network or automatic, got '{}'", text));
}

void validate(const MpiOptions& options) {
  const auto reject = [](const char* what, auto needed, auto got) {
    throw Error(Errc::config, fmt::format("parallel: {} needs {}, got {}", what, needed, got));
  };
  if (!(options.timeout_seconds > 0)) {
    reject("timeout", "a positive number of seconds", options.timeout_seconds);
  }
  if (options.message_limit_bytes < 1 || options.message_limit_bytes > INT_MAX) {
    reject("a message's limit", fmt::format("1 to {} bytes", INT_MAX), options.message_limit_bytes);
  }
  if (options.box_bytes != 0 && options.box_bytes < kSmallestBox) {
    reject("a box", fmt::format("at least {} bytes", kSmallestBox), options.box_bytes);
  }
}

std::int64_t box_bytes(const MpiOptions& options, Path path, int world) {
  const std::int64_t chosen = path == Path::window ? kWindowBoxBytes : kNetworkBoxBytes;
  const std::int64_t asked = options.box_bytes == 0 ? chosen : options.box_bytes;
  return std::max(asked, kSmallestBox * world);  // a piece for each rank at least
}

std::int64_t spin_ns(int local_ranks) {
  const long cores = sysconf(_SC_NPROCESSORS_ONLN);
  return local_ranks <= cores ? kSpinNs : kCrowdedSpinNs;
}

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(const MpiOptions& options);
  ~MpiCommunicator() override;
  int rank() const override { return machine_.rank; }
  int size() const override { return machine_.size; }
  void all_reduce(std::span<const Tensor> parts, const SumOrder& order) override {
    collectives_->all_reduce(parts, order);
  }
  void reduce_scatter(std::span<const Tensor> parts,
                      const SumOrder& order,
                      std::span<const Share> shares) override {
    collectives_->reduce_scatter(parts, order, shares);
  }
  void all_gather(std::span<std::byte> bytes, std::span<const Share> shares) override {
    collectives_->all_gather("all_gather", bytes, shares);
  }
  void broadcast(std::span<std::byte> bytes, int root) override {
    collectives_->broadcast(bytes, root);
  }
  void gather_all(std::span<std::byte> out, std::span<const std::byte> mine) override {
    collectives_->gather_all("gather_all", out, mine);
  }
  void send(std::span<const std::byte> bytes, int to, int tag) override {
    sends_.send(bytes, to, tag);
  }
  void recv(std::span<std::byte> bytes, int from, int tag) override;
  void barrier() override { collectives_->barrier(); }
  [[noreturn]] void abort(int exit_code) noexcept override;

 private:
  void open_window(std::int64_t box_bytes);

  const int exceptions_ = std::uncaught_exceptions();
  MpiMachine machine_;
  Watch watch_;
  BufferedSends sends_;
  Messages received_;
  MPI_Win window_ = MPI_WIN_NULL;
  std::unique_ptr<Boxes> boxes_;
  std::unique_ptr<BoxCollectives> collectives_;
};

MpiCommunicator::MpiCommunicator(const MpiOptions& options)
    : machine_(enter_mpi()),
      watch_(machine_.rank, machine_.peers, options.timeout_seconds),
      sends_(machine_.messages, options.message_limit_bytes, watch_),
      received_(machine_.messages, options.message_limit_bytes, watch_) {
  Path path = chosen_path(options.path);
  const bool one_machine = machine_.local_size == machine_.size;
  if (path == Path::window && !one_machine) {
    throw Error(Errc::config,
                fmt::format("parallel: a shared window needs all {} ranks on one machine, {} are "
                            "on {}; leave STRATA_COMM unset",
                            machine_.size,
                            machine_.local_size,
                            machine_.peers[static_cast<std::size_t>(machine_.rank)].host.data()));
  }
  if (path == Path::automatic) {
    path = one_machine ? Path::window : Path::network;
  }
  const std::int64_t bytes = box_bytes(options, path, machine_.size);
  if (path == Path::window) {
    open_window(bytes);
  } else {
    boxes_ = std::make_unique<NetworkBoxes>(
        machine_.rank,
        machine_.size,
        bytes,
        Messages(machine_.collectives, options.message_limit_bytes, watch_));
  }
  collectives_ = std::make_unique<BoxCollectives>(*boxes_);
  advise_on_single_copy(machine_);
  check_messages(machine_, received_);
}

void MpiCommunicator::open_window(std::int64_t box_bytes) {
  SharedWindow shared = allocate_window(machine_, SharedBoxes::segment_bytes(box_bytes));
  window_ = shared.window;
  watch_.use_alarm(&SharedBoxes::alarm(shared.segments));
  boxes_ = std::make_unique<SharedBoxes>(machine_.rank,
                                         std::move(shared.segments),
                                         box_bytes,
                                         spin_ns(machine_.local_size),
                                         watch_,
                                         [this] { return sends_.poll(); });
}

void MpiCommunicator::recv(std::span<std::byte> bytes, int from, int tag) {
  sends_.poll();
  received_.recv(bytes, from, tag);
  received_.wait("recv");
}

MpiCommunicator::~MpiCommunicator() {
  if (watch_.is_lost() || std::uncaught_exceptions() > exceptions_) {
    watch_.raise(static_cast<int>(Errc::comm), -1);
    return;  // freeing what all share, and MPI_Finalize, would wait for everybody
  }
  try {
    sends_.wait("end of the run");
    collectives_->barrier();
    leave_mpi(machine_, window_);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "strata: leaving MPI: %s\n", error.what());
  }
}

void MpiCommunicator::abort(int exit_code) noexcept {
  watch_.raise(exit_code, -1);
  std::fflush(nullptr);
  std::this_thread::sleep_for(kLastWords);
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(const MpiOptions& options) {
  validate(options);
  return std::make_unique<MpiCommunicator>(options);
}

void library_all_reduce(std::span<float> values) {
  check_mpi(MPI_Allreduce(MPI_IN_PLACE,
                          values.data(),
                          static_cast<int>(values.size()),
                          MPI_FLOAT,
                          MPI_SUM,
                          MPI_COMM_WORLD),
            "MPI_Allreduce");
}

}  // namespace strata::parallel
