// strata doctor: what this program sees of the machine, and what of it is in use.
#include <algorithm>
#include <cstdio>
#include <cstdlib>

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
#include "launch/machine.h"
#include "launch/ranks.h"
#include "launch/waiting.h"
#include "offload/memory_arenas.h"
#include "offload/numa.h"
#include "offload/planner.h"
#include "parallel/launcher.h"

namespace strata::launch {
namespace {

using nlohmann::json;

/// A product as GPT-2 has it: rows of a micro-batch through the widest layer of 768 channels.
std::string typical_kernel(DType dtype) {
  return matmul_kernel({.m = 1024, .n = 3072, .k = 768, .in = dtype, .out = dtype});
}

json memory_nodes() {
  json nodes = json::array();
  for (const offload::NumaNode& node : offload::numa_nodes()) {
    nodes.push_back({{"number", node.number},
                     {"total_bytes", node.total_bytes},
                     {"free_bytes", node.free_bytes},
                     {"has_cores", node.has_cores},
                     {"here", node.here}});
  }
  return nodes;
}

json findings() {
  const MemoryInfo memory = runtime(DeviceKind::cpu).memory_info();
  const std::string pages = huge_pages();
  const auto lockable = offload::lockable_bytes();
  const auto place = parallel::local_place_from_launcher();
  const int threads = place && std::getenv("OMP_NUM_THREADS") == nullptr
                          ? std::min(cores_allowed(), fair_cores())  // as training sets them
                          : thread_count();
  return {{"processor", processor_name()},
          {"threads", threads},
          {"cores_online", static_cast<std::int64_t>(sysconf(_SC_NPROCESSORS_ONLN))},
          {"cores_allowed", cores_allowed()},
          {"launcher", parallel::under_mpi_launcher()},
          {"ranks", parallel::ranks_of_launcher()},
          {"ranks_here", place ? place->size : 1},
          {"cores_per_rank", fair_cores()},
          {"idle_threads", wait_policy()},
          {"isa", cpu::to_string(cpu::isa_level())},
          {"matmul", matmul_library()},
          {"matmul_kernel_f32", typical_kernel(DType::f32)},
          {"matmul_kernel_bf16", typical_kernel(DType::bf16)},
          {"bf16_products", matmul_has_bf16()},
          {"bf16_attention", cpu::has_bf16_dot()},
          {"memory_free_bytes", memory.free_bytes},
          {"memory_total_bytes", memory.total_bytes},
          {"memory_nodes", memory_nodes()},
          {"memory_lockable_bytes", lockable ? json(*lockable) : json()},
          {"huge_pages", pages},
          {"huge_pages_given", pages == "always" || pages == "madvise"},
          {"io_engine", std::string(io::make_queue()->engine())},
          {"cuda", false}};
}

/// Without entering MPI: what a launcher's environment and the affinity mask tell.
std::string launcher_text(const json& found) {
  if (!found["launcher"].get<bool>()) {
    return "none: one process";
  }
  const int allowed = found["cores_allowed"], fair = found["cores_per_rank"];
  return fmt::format("{} ranks, {} of them on this machine, {} of its cores each{}",
                     found["ranks"].get<int>(),
                     found["ranks_here"].get<int>(),
                     fair,
                     allowed < fair ? fmt::format("; this one may use {}: mpirun --bind-to none "
                                                  "gives it all",
                                                  allowed)
                                    : "");
}

void print(const json& found) {
  const auto line = [](const char* name, const std::string& text) {
    std::printf("%-12s %s\n", name, text.c_str());
  };
  const auto text = [&](const char* key) { return found[key].get<std::string>(); };
  const auto bytes = [&](const char* key) {
    return offload::bytes_text(found[key].get<std::int64_t>());
  };
  const auto bf16 = [&](const char* key) {
    return found[key].get<bool>() ? "instructions for it" : "f32 copies";
  };
  const auto threads = found["threads"].get<std::int64_t>();
  const auto cores = found["cores_online"].get<std::int64_t>();
  line("processor", text("processor"));
  line("threads", std::to_string(threads) + " of " + std::to_string(cores) + " cores");
  if (threads < cores && !found["launcher"].get<bool>()) {
    line("", "fewer than the machine has: check OMP_NUM_THREADS and the affinity mask");
  }
  line("launcher", launcher_text(found));
  line("when idle", text("idle_threads"));
  line("instructions", text("isa") + " (STRATA_ISA=base|avx2|avx512 lowers it)");
  line("products", text("matmul"));
  line("  f32", text("matmul_kernel_f32"));
  line("  bf16", text("matmul_kernel_bf16"));
  line("bf16",
       std::string("products by ") + bf16("bf16_products") + ", attention by " +
           bf16("bf16_attention"));
  line("memory", bytes("memory_free_bytes") + " free of " + bytes("memory_total_bytes"));
  for (const json& node : found["memory_nodes"]) {
    line(fmt::format("  node {}", node["number"].get<int>()).c_str(),
         fmt::format("{} free of {}{}{}",
                     offload::bytes_text(node["free_bytes"].get<std::int64_t>()),
                     offload::bytes_text(node["total_bytes"].get<std::int64_t>()),
                     node["has_cores"].get<bool>() ? "" : ", without cores",
                     node["here"].get<bool>() ? ", here" : ""));
  }
  line("  lockable",
       found["memory_lockable_bytes"].is_null() ? "any number of bytes"
                                                : bytes("memory_lockable_bytes") + " (ulimit -l)");
  line("huge pages",
       text("huge_pages") +
           (found["huge_pages_given"].get<bool>()
                ? ": given where asked for"
                : ": not given; /sys/kernel/mm/transparent_hugepage/enabled needs madvise"));
  line("file queue", text("io_engine"));
  line("CUDA", "not in this build");
}

}  // namespace

int doctor(Words words) {
  const Args args(
      "doctor", words, {}, {{"--json", "", "print one JSON object", CommandOption::Kind::flag}});
  if (args.help()) {
    return 0;
  }
  if (!speaks_first()) {
    return 0;  // ranks of one machine would say the same
  }
  const json found = findings();
  if (args.flag("--json")) {
    std::printf("%s\n", found.dump().c_str());
  } else {
    print(found);
  }
  return 0;
}

}  // namespace strata::launch
