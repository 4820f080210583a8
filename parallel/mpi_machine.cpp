#include "parallel/mpi_machine.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include <fmt/format.h>
#include <sys/statvfs.h>
#include <sys/uio.h>

#include "core/error.h"
#include "parallel/launcher.h"

namespace strata::parallel {
namespace {

constexpr std::size_t kProbeBytes = std::size_t{1} << 20;
constexpr int kProbeTag = 0;
constexpr std::int64_t kPage = 4096;

/// A rank that another MPI's launcher started is alone in this one.
void check_world_size(int size) {
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    const char* const text = std::getenv(variable);
    if (text != nullptr && std::to_string(size) != text) {
      throw Error(
          Errc::config,
          fmt::format("mpi: the launcher started {} ranks ({}) but MPI knows {}; start with "
                      "the mpirun of Open MPI 4",
                      text,
                      variable,
                      size));
    }
  }
}

/// Where Open MPI puts the memory of a window.
std::string window_directory() {
  const char* const set = std::getenv("OMPI_MCA_osc_sm_backing_store");
  return set == nullptr ? "/dev/shm" : set;
}

/// As local rank 0 sees it, so that all ranks of a machine throw or none.
void check_space(const MpiMachine& machine, std::int64_t needed_bytes) {
  const std::string directory = window_directory();
  std::int64_t free_bytes = -1;
  struct statvfs space {};
  if (machine.local_rank == 0 && statvfs(directory.c_str(), &space) == 0) {
    free_bytes = static_cast<std::int64_t>(space.f_bavail * space.f_frsize);
  }
  check_mpi(MPI_Bcast(&free_bytes, 1, MPI_INT64_T, 0, machine.local), "MPI_Bcast");
  if (free_bytes >= 0 && free_bytes < needed_bytes) {
    throw Error(Errc::io,
                fmt::format("mpi: {} ranks need {:.1f} MiB of shared memory in {}, {:.1f} MiB are "
                            "free; enlarge it (docker: --shm-size) or set STRATA_COMM=network",
                            machine.local_size,
                            static_cast<double>(needed_bytes) / (1 << 20),
                            directory,
                            static_cast<double>(free_bytes) / (1 << 20)));
  }
}

/// 0, or why this process may not read a MiB at `address` of another.
int read_error(std::int64_t pid, std::uint64_t address) {
  std::vector<std::byte> here(kProbeBytes);
  const iovec to{here.data(), here.size()};
  const iovec from{reinterpret_cast<void*>(address), here.size()};
  const ssize_t n = process_vm_readv(static_cast<pid_t>(pid), &to, 1, &from, 1, 0);
  return n == static_cast<ssize_t>(here.size()) ? 0 : n < 0 ? errno : EIO;
}

/// The first page border from here. The memory is mapped on pages everywhere, so this is the same
/// byte for all ranks.
std::byte* on_page(std::byte* base) {
  const auto address = reinterpret_cast<std::uintptr_t>(base);
  return base + (kPage - address % kPage) % kPage;
}

}  // namespace

MpiMachine enter_mpi() {
  if (!under_mpi_launcher()) {
    throw Error(Errc::config, "mpi: several ranks need a launcher; start them with mpirun");
  }
  int entered = 0;
  check_mpi(MPI_Initialized(&entered), "MPI_Initialized");
  STRATA_ASSERT(entered == 0);
  int level = 0;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level), "MPI_Init_thread");
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  MpiMachine machine;
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &machine.rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &machine.size), "MPI_Comm_size");
  check_world_size(machine.size);
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &machine.collectives), "MPI_Comm_dup");
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &machine.messages), "MPI_Comm_dup");
  check_mpi(MPI_Comm_split_type(
                MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, machine.rank, MPI_INFO_NULL, &machine.local),
            "MPI_Comm_split_type");
  check_mpi(MPI_Comm_rank(machine.local, &machine.local_rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(machine.local, &machine.local_size), "MPI_Comm_size");
  const Peer me = this_process();
  machine.peers.resize(static_cast<std::size_t>(machine.size));
  check_mpi(
      MPI_Allgather(
          &me, sizeof me, MPI_BYTE, machine.peers.data(), sizeof me, MPI_BYTE, MPI_COMM_WORLD),
      "MPI_Allgather");
  return machine;
}

void leave_mpi(MpiMachine& machine, MPI_Win window) {
  if (window != MPI_WIN_NULL) {
    check_mpi(MPI_Win_unlock_all(window), "MPI_Win_unlock_all");
    check_mpi(MPI_Win_free(&window), "MPI_Win_free");
  }
  for (MPI_Comm* held : {&machine.local, &machine.messages, &machine.collectives}) {
    check_mpi(MPI_Comm_free(held), "MPI_Comm_free");
  }
  check_mpi(MPI_Finalize(), "MPI_Finalize");
}

SharedWindow allocate_window(const MpiMachine& machine, std::int64_t wanted_bytes) {
  const std::int64_t segment_bytes = wanted_bytes + kPage;  // what on_page() skips
  check_space(machine, segment_bytes * machine.local_size);
  SharedWindow shared;
  MPI_Info info = MPI_INFO_NULL;
  check_mpi(MPI_Info_create(&info), "MPI_Info_create");
  // Every segment on pages of its own, which the rank that touches them first has near.
  check_mpi(MPI_Info_set(info, "alloc_shared_noncontig", "true"), "MPI_Info_set");
  std::byte* mine = nullptr;
  check_mpi(MPI_Win_allocate_shared(
                segment_bytes, 1, info, machine.local, static_cast<void*>(&mine), &shared.window),
            "MPI_Win_allocate_shared");
  check_mpi(MPI_Info_free(&info), "MPI_Info_free");
  check_mpi(MPI_Win_set_errhandler(shared.window, MPI_ERRORS_RETURN), "MPI_Win_set_errhandler");
  check_mpi(MPI_Win_lock_all(MPI_MODE_NOCHECK, shared.window), "MPI_Win_lock_all");
  std::memset(mine, 0, static_cast<std::size_t>(segment_bytes));
  for (int rank = 0; rank < machine.local_size; ++rank) {
    MPI_Aint size = 0;
    int unit = 0;
    std::byte* base = nullptr;
    check_mpi(MPI_Win_shared_query(shared.window, rank, &size, &unit, static_cast<void*>(&base)),
              "MPI_Win_shared_query");
    shared.segments.push_back(on_page(base));
  }
  check_mpi(MPI_Barrier(machine.local), "MPI_Barrier");  // nobody finds old bytes
  return shared;
}

void advise_on_single_copy(const MpiMachine& machine) {
  const char* const mechanism = std::getenv("OMPI_MCA_btl_vader_single_copy_mechanism");
  if (mechanism != nullptr && std::string_view(mechanism) == "none") {
    return;
  }
  struct Place {
    std::int64_t pid;
    std::uint64_t address;
  };
  const std::vector<std::byte> mine(kProbeBytes, std::byte{1});
  const Place place{machine.peers[static_cast<std::size_t>(machine.rank)].pid,
                    reinterpret_cast<std::uintptr_t>(mine.data())};
  std::vector<Place> places(static_cast<std::size_t>(machine.local_size));
  check_mpi(
      MPI_Allgather(
          &place, sizeof place, MPI_BYTE, places.data(), sizeof place, MPI_BYTE, machine.local),
      "MPI_Allgather");
  const Place& next =
      places[static_cast<std::size_t>((machine.local_rank + 1) % machine.local_size)];
  const int error = machine.local_size == 1 ? 0 : read_error(next.pid, next.address);
  int any = 0;
  check_mpi(MPI_Allreduce(&error, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD), "MPI_Allreduce");
  if (any != 0 && machine.rank == 0) {
    std::fprintf(stderr,
                 "strata: ranks may not read each other's memory (%s), so messages are copied "
                 "twice; to keep Open MPI from trying, add --mca btl_vader_single_copy_mechanism "
                 "none, or give the container SYS_PTRACE\n",
                 std::strerror(any));
  }
}

void check_messages(const MpiMachine& machine, Messages& messages) {
  const auto pattern = [](int rank, std::size_t i) {
    return static_cast<std::byte>((i * 31 + static_cast<std::size_t>(rank)) & 0xff);
  };
  const int next = (machine.rank + 1) % machine.size;
  const int previous = (machine.rank + machine.size - 1) % machine.size;
  std::vector<std::byte> sent(kProbeBytes), got(kProbeBytes);
  for (std::size_t i = 0; i < kProbeBytes; ++i) {
    sent[i] = pattern(machine.rank, i);
  }
  messages.recv(got, previous, kProbeTag);
  messages.send(sent, next, kProbeTag);
  messages.wait("first message");
  for (std::size_t i = 0; i < kProbeBytes; ++i) {
    if (got[i] != pattern(previous, i)) {
      throw Error(Errc::comm,
                  fmt::format("mpi: byte {} of the first message from rank {} to rank {} came as "
                              "{:#x}; try --mca btl_vader_single_copy_mechanism none",
                              i,
                              previous,
                              machine.rank,
                              static_cast<int>(got[i])));
    }
  }
}

}  // namespace strata::parallel
