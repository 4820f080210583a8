// strata doctor: what this program sees of the machine, and what follows.
#include <cstdio>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "core/cpu/simd.h"
#include "core/io/queue.h"
#include "core/matmul.h"
#include "core/parallel_for.h"
#include "core/runtime.h"
#include "launch/args.h"
#include "launch/commands.h"
#include "offload/planner.h"

namespace strata::launch {

int doctor(Words words) {
  const Args args(
      "doctor", words, {}, {{"--json", "", "print one JSON object", CommandOption::Kind::flag}});
  if (args.help()) {
    return 0;
  }
  const MemoryInfo memory = runtime(DeviceKind::cpu).memory_info();
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  const std::string engine(io::make_queue()->engine());
  if (args.flag("--json")) {
    const nlohmann::json object{{"threads", thread_count()},
                                {"cores_online", static_cast<std::int64_t>(online)},
                                {"isa", cpu::to_string(cpu::isa_level())},
                                {"matmul", matmul_library()},
                                {"memory_free_bytes", memory.free_bytes},
                                {"memory_total_bytes", memory.total_bytes},
                                {"io_engine", engine},
                                {"cuda", false}};
    std::printf("%s\n", object.dump().c_str());
    return 0;
  }
  std::printf("threads      %d of %ld cores\n", thread_count(), online);
  if (thread_count() < online) {
    std::printf(
        "             fewer than the machine has: check OMP_NUM_THREADS and the affinity mask "
        "(mpirun: --bind-to none)\n");
  }
  std::printf("instructions %s (STRATA_ISA=base|avx2|avx512 lowers it)\n",
              cpu::to_string(cpu::isa_level()));
  std::printf("products     %s\n", matmul_library().c_str());
  std::printf("memory       %s free of %s\n",
              offload::bytes_text(memory.free_bytes).c_str(),
              offload::bytes_text(memory.total_bytes).c_str());
  std::printf("file queue   %s\n", engine.c_str());
  std::printf("CUDA         not in this build\n");
  return 0;
}

}  // namespace strata::launch
