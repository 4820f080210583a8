#include "launch/step_timing.h"

#include <algorithm>

namespace strata::launch {
namespace {

constexpr Tier kNvme{TierKind::nvme, 0};
constexpr Tier kMemories[] = {{}, {TierKind::pinned, 0}, {TierKind::host, 0}, {TierKind::far, 0}};

/// Of what a forward encodes or a backward decodes, half of both.
double codec_seconds(const BlockProgram& block, const offload::HardwareProfile::Codecs& rates) {
  const auto seconds = [&](double rate) {
    return 0.5 * static_cast<double>(block.coded_numel()) / rate;
  };
  switch (block.codec()) {
    case ActivationCodec::exact:
      return 0;
    case ActivationCodec::fp8:
      return seconds(rates.fp8);
    case ActivationCodec::int8:
      return seconds(rates.int8);
    case ActivationCodec::int4:
      return seconds(rates.int4);
  }
  return 0;
}

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
      return block.forward_flops() * (last ? 3 : 1) / gemm  // the loss runs its backward too
             + codec_seconds(block, rates.codecs);
    case Op::recompute:
      return block.recompute_flops() / gemm + codec_seconds(block, rates.codecs);
    case Op::backward:
      return (2 * block.forward_flops() + block.redo_flops()) / gemm +
             codec_seconds(block, rates.codecs);
    case Op::norm:
      return params * 4 / rates.copy;
    case Op::update:
      return params / (b.sharded() ? b.computation.place.world : 1) / rates.update;
    default:
      return 0;
  }
}

/// What is left of the rate of products while files are read as fast as the plan has it: less is
/// lost where their pace is lower than what was measured beside products.
double beside_files(const offload::HardwareProfile& rates, const offload::NvmeConfig& nvme) {
  double measured = 0, planned = 0;
  for (const offload::PathRates& path : rates.paths) {
    measured += path.read;
  }
  for (const offload::NvmePath& path : nvme.paths) {
    planned += path.read_rate;
  }
  const double share = measured > 0 ? std::min(1.0, planned / measured) : 0;
  return 1 - (1 - rates.gemm_beside_io) * share;
}

}  // namespace

offload::Timing step_timing(const Blueprint::Impl& blueprint, const Offloading& offloading) {
  offload::Timing t;
  offload::HardwareProfile rates = offloading.rates;
  const double beside = beside_files(rates, offloading.nvme);
  rates.gemm_f32 *= beside;
  rates.gemm_bf16 *= beside;
  t.compute_seconds = [&blueprint, rates](const Instruction& i) {
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
