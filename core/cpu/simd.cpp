#include "core/cpu/simd.h"

#include <atomic>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/error.h"

namespace strata::cpu {

namespace {

constexpr IsaLevel kLevels[] = {IsaLevel::base, IsaLevel::avx2, IsaLevel::avx512};

// Every extension that STRATA_TARGET_* names. The built-in also asks whether the system saves the
// registers.
IsaLevel machine_level() {
  __builtin_cpu_init();
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
        __builtin_cpu_supports("lzcnt") && __builtin_cpu_supports("f16c"))) {
    return IsaLevel::base;
  }
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512cd");
  return avx512 ? IsaLevel::avx512 : IsaLevel::avx2;
}

void require_machine(IsaLevel level, std::string_view who) {
  if (level > machine_level()) {
    throw Error(Errc::config,
                std::string(who) + ": this machine runs at most " + to_string(machine_level()) +
                    " kernels, got " + to_string(level));
  }
}

IsaLevel initial_level() {
  const char* asked = std::getenv("STRATA_ISA");
  if (asked == nullptr || *asked == '\0') {
    return machine_level();
  }
  for (const IsaLevel level : kLevels) {
    if (std::string_view(asked) == to_string(level)) {
      require_machine(level, "STRATA_ISA");
      return level;
    }
  }
  throw Error(Errc::config,
              "STRATA_ISA: base, avx2 or avx512 is needed, got '" + std::string(asked) + "'");
}

std::atomic<IsaLevel>& level_setting() {
  static std::atomic<IsaLevel> level{initial_level()};
  return level;
}

}  // namespace

const char* to_string(IsaLevel level) {
  constexpr const char* names[] = {"base", "avx2", "avx512"};
  return names[static_cast<std::size_t>(level)];
}

IsaLevel isa_level() {
  return level_setting().load(std::memory_order_relaxed);
}

void force_isa_level(IsaLevel level) {
  require_machine(level, "force_isa_level");
  level_setting().store(level, std::memory_order_relaxed);
}

bool has_bf16_dot() {
  static const bool machine = [] {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512bf16") != 0;
  }();
  return machine && isa_level() == IsaLevel::avx512;
}

}  // namespace strata::cpu
