#include "launch/stored_weights.h"

#include <algorithm>
#include <vector>

#include "core/bf16.h"
#include "core/param.h"
#include "core/quant.h"

namespace strata::launch {
namespace {

const checkpoint::Reader::Stored* find(const checkpoint::Reader& reader,
                                       const std::string& tensor,
                                       const std::string& state) {
  for (const checkpoint::Reader::Stored& stored : reader.tensors()) {
    if (stored.tensor == tensor && stored.state == state) {
      return &stored;
    }
  }
  return nullptr;
}

template <class T>
std::vector<T> read_values(const checkpoint::Reader& reader,
                           const std::string& tensor,
                           const std::string& state,
                           std::int64_t begin,
                           std::int64_t count) {
  std::vector<T> values(static_cast<std::size_t>(count));
  reader.read(tensor, state, begin, std::as_writable_bytes(std::span(values)));
  return values;
}

}  // namespace

void read_stored_weights(const checkpoint::Reader& reader,
                         const std::string& tensor,
                         std::int64_t begin,
                         std::span<float> values) {
  const auto count = static_cast<std::int64_t>(values.size());
  if (find(reader, tensor, "weight.codes") != nullptr) {
    const auto codes = read_values<std::uint8_t>(reader, tensor, "weight.codes", begin, count);
    const std::int64_t first = begin / kWeightGroup;
    const std::int64_t last = (begin + count + kWeightGroup - 1) / kWeightGroup;
    const auto affine =
        read_values<float>(reader, tensor, "weight.affine", 2 * first, 2 * (last - first));
    for (std::int64_t i = 0; i < count; ++i) {
      const auto group = static_cast<std::size_t>((begin + i) / kWeightGroup - first);
      const quant::Affine of{affine[2 * group], affine[2 * group + 1], 255};
      values[static_cast<std::size_t>(i)] = of.decode(codes[static_cast<std::size_t>(i)]);
    }
    return;
  }
  const checkpoint::Reader::Stored* const stored = find(reader, tensor, "weight");
  if (stored != nullptr && stored->dtype == DType::bf16) {
    const auto narrow = read_values<bf16>(reader, tensor, "weight", begin, count);
    std::transform(narrow.begin(), narrow.end(), values.begin(), to_float);
    return;
  }
  reader.read(tensor, "weight", begin, std::as_writable_bytes(values));
}

}  // namespace strata::launch
