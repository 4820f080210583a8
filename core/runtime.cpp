#include "core/runtime.h"

#include "core/cpu/runtime.h"
#include "core/error.h"

namespace strata {

Runtime& runtime(DeviceKind kind) {
  if (kind == DeviceKind::cuda) {
    throw Error(Errc::config,
                "device: cuda was asked for, but this build has no CUDA; use device = \"cpu\" or "
                "build with STRATA_CUDA=ON");
  }
  static cpu::CpuRuntime cpu_runtime;
  return cpu_runtime;
}

}  // namespace strata
