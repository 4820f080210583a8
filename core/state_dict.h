#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/pack.h"

namespace strata {

/// One stored field of one tensor's range: where its bytes are and what they mean, without the
/// bytes.
struct StateEntry {
  std::string tensor;  // logical name, "h.0.attn.c_attn.weight"
  std::string state;   // "weight", or an optimizer field: "m", "v"
  DType dtype = DType::f32;
  Shape shape;                      // of the whole tensor
  std::int64_t begin = 0, end = 0;  // flat element range of the tensor that this entry covers
  std::int64_t numel = 0;           // values stored; equals end - begin for element-wise fields
  std::int64_t first_value = 0;     // place of the first among the values of the whole tensor
  PackKey pack;
  std::int64_t offset = 0;  // bytes in the pack
  std::int64_t size_bytes() const { return numel * strata::size_bytes(dtype); }
};
/// All that a rank owns, in storage order. Streamed pack by pack, never all in memory.
using StateDict = std::vector<StateEntry>;

/// What a checkpoint says of a run besides tensors.
struct RunState {
  std::int64_t step = 0;
  std::int64_t updates = 0;  // steps that were not skipped
  std::int64_t tokens = 0;   // seen so far
  std::int64_t samples = 0;  // data cursor: index of the next sample
  std::uint64_t seed = 0;
  std::string numeric_hash;                                // of the settings that may change bits
  std::map<std::string, std::string> numeric_environment;  // library versions, instruction set
  std::map<std::string, std::string> files;     // put beside the tensors: config.json, tokenizer
  std::map<std::string, std::string> settings;  // the resolved config, dotted key to value
};

}  // namespace strata
