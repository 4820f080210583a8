// Files, locks, and ways that are slower than the usual, each said once.
#include <cerrno>
#include <cstddef>
#include <mutex>

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/io/file.h"
#include "offload/nvme_store.h"
#include "tests/offload/nvme_rig.h"
#include "tests/support/errors.h"
#include "tests/support/forked.h"

namespace strata::offload::tests {
namespace {

namespace fs = std::filesystem;
using io::Direction;
using strata::tests::expect_error;
using strata::tests::run_forked;

constexpr std::int64_t kSize = 41 * 4096;

struct Warnings {
  std::vector<std::string> lines;
  std::mutex mutex;
  std::function<void(std::string_view)> sink() {
    return [this](std::string_view text) {
      const std::lock_guard lock(mutex);
      lines.emplace_back(text);
    };
  }
};

/// What a store with this configuration warns of while it moves bytes there and back.
std::vector<std::string> warnings_of(NvmeConfig config) {
  Warnings warnings;
  config.warn = warnings.sink();
  {
    NvmeStore store(config, {{"a", kSize, 2}, {"b", kSize}});
    const Bytes a(kSize, 1), b(kSize, 2), c(kSize, 3);
    write(store, 0, a);
    write(store, 1, b);
    EXPECT_TRUE(read(store, 0, kSize) == a);
    store.wait(store.write_next(0, c));
    store.commit(0);
    EXPECT_TRUE(read(store, 0, kSize) == c);
    EXPECT_TRUE(read(store, 1, kSize) == b);
  }
  return warnings.lines;
}

void expect_one(const std::vector<std::string>& lines, std::string_view word) {
  ASSERT_EQ(lines.size(), 1u) << testing::PrintToString(lines);
  EXPECT_NE(lines[0].find(word), std::string::npos) << lines[0];
  EXPECT_EQ(lines[0].find('\n'), std::string::npos);
}

bool past_the_cache(int fd) {
  return (::fcntl(fd, F_GETFL) & O_DIRECT) != 0;
}

/// A device that takes only multiples of `alignment`.
io::FaultInjector aligned_device(std::int64_t alignment) {
  return [alignment](const io::Request& request, std::int64_t result) -> std::int64_t {
    const auto size = static_cast<std::int64_t>(request.bytes.size());
    const bool fits = request.offset % alignment == 0 && size % alignment == 0;
    return request.fd >= 0 && size > 0 && past_the_cache(request.fd) && !fits ? -EINVAL : result;
  };
}

TEST(NvmeStore, A27KnownAlignmentsCostNothing) {
  const TempDir dir;
  for (const std::int64_t alignment : {512, 4096, 65536}) {
    SCOPED_TRACE(alignment);
    NvmeConfig config = small_config(dir, 2);
    bool direct = false;
    config.fault = [&, inner = aligned_device(alignment)](const io::Request& request,
                                                          std::int64_t result) {
      direct = direct || (!request.bytes.empty() && past_the_cache(request.fd));
      return inner(request, result);
    };
    for (NvmePath& path : config.paths) {
      path.alignment_bytes = alignment;
    }
    EXPECT_EQ(warnings_of(config), std::vector<std::string>{});
    EXPECT_TRUE(direct);
  }
}

TEST(NvmeStore, A27AnUnknownAlignmentEndsInThePageCache) {
  const TempDir dir;
  NvmeConfig config = small_config(dir, 1);
  config.paths[0].alignment_bytes = 4096;
  config.fault = aligned_device(65536);
  expect_one(warnings_of(config), "page cache");
  config.allow_buffered = false;
  expect_error(Errc::config, {"path0", "4096", "Invalid argument", "another directory"}, [&] {
    NvmeStore(config, {{"a", kSize}});
  });
  EXPECT_EQ(entries_of(dir / "path0"), 0u);
}

TEST(NvmeStore, A27ARefusalInTheMiddleIsDiagnosed) {
  const TempDir dir;
  NvmeConfig config = small_config(dir, 1);
  config.fault = [](const io::Request& request, std::int64_t result) -> std::int64_t {
    const bool write = request.direction == Direction::write && !request.bytes.empty();
    return write && past_the_cache(request.fd) ? -EINVAL : result;
  };
  expect_one(warnings_of(config), "page cache");
}

TEST(NvmeStore, A27DirectOpeningRefused) {
  const TempDir dir;
  NvmeConfig config = small_config(dir, 1);
  config.fault = [](const io::Request& request, std::int64_t result) -> std::int64_t {
    return request.fd < 0 && request.direction == Direction::read ? -EINVAL : result;
  };
  expect_one(warnings_of(config), "page cache");
  config.direct = false;  // as it was asked for
  EXPECT_EQ(warnings_of(config), std::vector<std::string>{});
}

/// What the child printed as warnings, one per line.
std::string in_child(const std::function<void()>& limit, NvmeConfig config) {
  const auto end = run_forked([&] {
    limit();
    std::string text;
    for (const std::string& line : warnings_of(config)) {
      text += line + '\n';
    }
    return testing::Test::HasFailure() ? "bytes differ" : text;
  });
  EXPECT_EQ(end.exit_code, 0) << end.text;
  return end.text;
}

TEST(NvmeStore, A27WithoutIoUringThreadsMoveTheBytes) {
  const TempDir dir;
  const auto forbid = [] {
    const sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
                                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
                                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    const sock_fprog program{4, const_cast<sock_filter*>(code)};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
      throw std::runtime_error("seccomp is not granted");
    }
  };
  const std::string text = in_child(forbid, small_config(dir, 2));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  EXPECT_NE(text.find("io_uring"), std::string::npos) << text;
}

TEST(NvmeStore, A27WithoutLockedMemoryBuffersStayUnregistered) {
  if (!io::uring_available()) {
    GTEST_SKIP() << "the kernel grants no io_uring";
  }
  const TempDir dir;
  NvmeConfig config = small_config(dir, 2);
  const Bytes arena(4 * kMiB, 1);
  const std::span<std::byte> spans[] = {arena.span()};
  config.registered = spans;
  fs::permissions(dir.path(), fs::perms::all);
  for (const NvmePath& path : config.paths) {
    fs::permissions(path.directory, fs::perms::all);
  }
  const auto limit = [] {
    const rlimit small{64 * 1024, 64 * 1024};
    if (::setrlimit(RLIMIT_MEMLOCK, &small) != 0 ||
        (::geteuid() == 0 && ::seteuid(65534) != 0)) {  // the superuser may lock what it wants
      throw std::runtime_error("no way to lower the limit");
    }
  };
  const std::string text = in_child(limit, config);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  EXPECT_NE(text.find("register buffers"), std::string::npos) << text;
}

TEST(NvmeStore, RegisteredMemoryAndOtherMemoryMoveAlike) {
  const TempDir dir;
  NvmeConfig config = small_config(dir, 2);
  const Bytes inside(kSize, 1), outside(kSize, 2);
  Bytes back(kSize);
  const std::span<std::byte> spans[] = {inside.span(), back.span()};
  config.registered = spans;
  NvmeStore store(config, {{"a", kSize}, {"b", kSize}});
  write(store, 0, inside);
  write(store, 1, outside);
  store.wait(store.read(0, back));
  EXPECT_TRUE(back == inside);
  EXPECT_TRUE(read(store, 1, kSize) == outside);
  store.wait(store.read(1, back));
  EXPECT_TRUE(back == outside);
}

TEST(NvmeStore, AFullDiskIsFoundBeforeTheFirstByte) {
  const TempDir dir;
  NvmeConfig config = small_config(dir, 2);
  config.fault = [](const io::Request& request, std::int64_t result) -> std::int64_t {
    const bool reserves = request.bytes.empty() && request.direction == Direction::write;
    return reserves && request.path.find("path1") != std::string::npos ? -ENOSPC : result;
  };
  const std::size_t descriptors = open_descriptors();
  expect_error(Errc::io, {"reservation of 1048576 bytes", "path1", "bytes are free"}, [&] {
    NvmeStore(config, {{"a", 2 * kMiB}});
  });
  EXPECT_EQ(entries_of(dir / "path0"), 0u);
  EXPECT_EQ(entries_of(dir / "path1"), 0u);
  EXPECT_EQ(open_descriptors(), descriptors);
}

TEST(NvmeStore, AFullDiskOfTheSystem) {
  const TempDir dir;
  NvmeConfig config;
  config.paths.push_back({.directory = dir.path(), .budget_bytes = 64 * kMiB});
  const auto end = strata::tests::run_on_small_disk(dir, 4 * kMiB, [&] {
    try {
      NvmeStore(config, {{"a", 16 * kMiB}});
    } catch (const Error& error) {
      return fmt::format("{} {} {}", error.exit_code(), entries_of(dir.path()), error.what());
    }
    return std::string("nothing was thrown");
  });
  if (!end) {
    GTEST_SKIP() << "mounting needs CAP_SYS_ADMIN";
  }
  EXPECT_EQ(end->text.find("8 0 "), 0u) << end->text;
  EXPECT_NE(end->text.find("16777216 bytes"), std::string::npos) << end->text;
}

TEST(NvmeStore, ABudgetBelowTheExtentsIsInfeasible) {
  const TempDir dir;
  NvmeConfig config = small_config(dir, 1);
  config.paths[0].budget_bytes = kMiB;
  expect_error(Errc::infeasible, {"1179648 bytes", "131072 bytes are missing"}, [&] {
    NvmeStore(config, {{"a", 576 * kKiB, 2}});
  });
  EXPECT_EQ(entries_of(dir / "path0"), 0u);
}

TEST(NvmeStore, FilesOfTheDeadAreRemovedAndThoseOfTheLivingStay) {
  const TempDir dir;
  const NvmeConfig config = small_config(dir, 1);
  const auto end = run_forked([&]() -> std::string {
    const NvmeStore store(config, {{"a", kSize}});
    ::kill(::getpid(), SIGKILL);
    return {};
  });
  EXPECT_EQ(end.signal, SIGKILL);
  EXPECT_EQ(entries_of(dir / "path0"), 2u);
  io::replace_file(dir / "path0" / "swap.7.0.bin", "of a boot long ago");
  io::replace_file(dir / "path0" / "swap.7.0.lock", "1 00000000-0000-0000-0000-000000000000\n");
  io::replace_file(dir / "path0" / "precious.bin", "of someone else");

  NvmeConfig second = config;
  second.rank = 1;
  NvmeStore store(second, {{"a", kSize}});
  EXPECT_EQ(entries_of(dir / "path0"), 3u);
  EXPECT_TRUE(fs::exists(dir / "path0" / "swap.1.0.bin"));
  EXPECT_TRUE(fs::exists(dir / "path0" / "precious.bin"));
  EXPECT_EQ(io::read_text(dir / "path0" / "swap.1.0.lock").find(fmt::format("{} ", ::getpid())),
            0u);

  const Bytes data(kSize, 1);
  write(store, 0, data);
  expect_error(Errc::config,
               {"swap.1.0.bin", fmt::format("process {}:", ::getpid()), "another directory"},
               [&] {
                 NvmeStore(second, {{"a", kSize}});
               });
  {
    NvmeConfig third = config;
    third.rank = 2;
    NvmeStore beside(third, {{"a", kSize}});
    EXPECT_TRUE(fs::exists(dir / "path0" / "swap.1.0.bin"));
    EXPECT_TRUE(fs::exists(dir / "path0" / "swap.1.0.lock"));
  }
  EXPECT_TRUE(read(store, 0, kSize) == data);
}

TEST(NvmeStore, ADirectoryThatIsNoneIsNamed) {
  const TempDir dir;
  NvmeConfig config = small_config(dir, 1);
  config.paths[0].directory = dir / "absent";
  expect_error(Errc::io, {"absent", "No such file"}, [&] { NvmeStore(config, {{"a", kSize}}); });
}

}  // namespace
}  // namespace strata::offload::tests
