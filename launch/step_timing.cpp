#include "launch/step_timing.h"

namespace strata::launch {
namespace {

constexpr Tier kNvme{TierKind::nvme, 0};
constexpr Tier kMemories[] = {{}, {TierKind::pinned, 0}, {TierKind::host, 0}, {TierKind::far, 0}};

double seconds_of(const Blueprint::Impl& b,
                  const offload::HardwareProfile& rates,
                  const Instruction& i) {
  if (i.block < 0) {
    return 0;
  }
  const bool train = b.computation.dtype == DType::f32;
  const double gemm = train ? rates.gemm_f32 : rates.gemm_bf16;
  const BlockProgram& block = b.train->block_program(i.block);
  double params = 0;
  for (const ParamSpec& param : b.specs[static_cast<std::size_t>(i.block)].params) {
    params += static_cast<double>(param.info.shape.numel());
  }
  const bool last = i.block + 1 == static_cast<int>(b.blocks.size());
  switch (i.op) {
    case Op::forward:
      return block.forward_flops() * (last ? 3 : 1) / gemm;  // the loss runs its backward too
    case Op::recompute:
      return block.recompute_flops() / gemm;
    case Op::backward:
      return (2 * block.forward_flops() + block.redo_flops()) / gemm;
    case Op::norm:
      return params * 4 / rates.copy;
    case Op::update:
      return params / (b.sharded() ? b.computation.place.world : 1) / rates.update;
    default:
      return 0;
  }
}

}  // namespace

offload::Timing step_timing(const Blueprint::Impl& blueprint, const Offloading& offloading) {
  offload::Timing t;
  t.compute_seconds = [&blueprint, rates = offloading.rates](const Instruction& i) {
    return seconds_of(blueprint, rates, i);
  };
  double read = 0, write = 0;
  for (const offload::NvmePath& path : offloading.nvme.paths) {
    read += path.read_rate;
    write += path.write_rate;
  }
  offload::SharedLinks reads{{}, read}, writes{{}, write};  // whichever memory they are for
  for (const Tier memory : kMemories) {
    for (const Tier other : kMemories) {
      if (other != memory) {
        t.bytes_per_second[{memory, other}] =
            memory_copy_rate(offloading.rates, memory, other, offloading.far_is_elsewhere);
      }
    }
    t.bytes_per_second[{kNvme, memory}] = read;
    t.bytes_per_second[{memory, kNvme}] = write;
    reads.links.push_back({kNvme, memory});
    writes.links.push_back({memory, kNvme});
  }
  if (read > 0) {
    t.shared = {reads, writes};
  }
  return t;
}

}  // namespace strata::launch
