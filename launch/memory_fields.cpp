#include "launch/memory_fields.h"

namespace strata::launch {
namespace {

using enum FieldType;
using C = RunConfig;
using V = const Value&;
using Device = MemorySettings::Device;

void set_device(C& c, V v) {
  c.memory.device = v.is_word() ? v.pick({Device::automatic, Device::minimum}) : Device::bytes;
  c.memory.device_bytes = v.is_word() ? 0 : v.integer();
}

MemorySettings::Amount amount(V v) {
  return v.is_word() ? MemorySettings::Amount{v.pick({Device::automatic, Device::minimum})}
                     : MemorySettings::Amount{Device::bytes, v.integer()};
}

void set_host(C& c, V v) {
  const MemorySettings::Amount host = amount(v);
  c.memory.host = host.how;
  c.memory.host_bytes = host.bytes;
}

void set_far_node(C& c, V v) {
  c.memory.far_node = v.is_word() ? std::nullopt : std::optional(static_cast<int>(v.integer()));
}

}  // namespace

// One setting a row or two: a table reads best as one.
// clang-format off
std::vector<Field> tier_fields() {
  const std::vector<std::string_view> amounts{"auto", "minimum"};
  return {
      {"memory.device", bytes, "auto", Effect::none, "memory a step may use where it computes",
       set_device, amounts, 1},
      {"memory.pinned", bytes, "0", Effect::none,
       "locked memory for what nothing computes with now; auto: what may be locked (ulimit -l), at most half of what is free",
       [](C& c, V v) { c.memory.pinned = amount(v); }, amounts},
      {"memory.host", bytes, "0", Effect::none, "memory for what nothing computes with now",
       set_host, amounts},
      {"memory.far", bytes, "0", Effect::none,
       "memory of another node (CXL, another socket) for the same; updates do not run there",
       [](C& c, V v) { c.memory.far = amount(v); }, amounts},
      {"memory.far_node", integer, "auto", Effect::none,
       "the node of memory.far, as strata doctor lists them; auto: not this process's own, those without cores first",
       set_far_node, {"auto"}, 0, 1023},
      {"memory.nvme", list, "[]", Effect::none,
       "files for the same, as DIRECTORY:BYTES (/scratch:20GiB); several directories share the bytes by their speed",
       [](C& c, V v) { c.memory.nvme = v.list(); }},
      {"memory.nvme_writes", bytes, "none", Effect::none,
       "bytes that a step may write to these files, of all ranks of a machine; drives wear out",
       [](C& c, V v) { c.memory.nvme_writes = v.maybe_integer(); }, {"none"}},
      {"memory.placement", text, "auto", Effect::none,
       "where bytes wait and updates run, as weights=nvme,state=far,grads=pinned,activations=device,update=host, for blocks apart as state=0:device,1-13:nvme, of some tokens (whole micro-batches) as activations=host*5/8; auto: as fast as the budgets allow",
       [](C& c, V v) { c.memory.placement = v.is_word() ? "" : v.text(); }, {"auto"}},
  };
}
// clang-format on

}  // namespace strata::launch
