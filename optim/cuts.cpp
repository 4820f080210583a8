#include "optim/cuts.h"

#include <algorithm>
#include <numeric>

#include "core/for_each.h"

namespace strata::optim {
namespace {

// Pieces of a sum: small enough to level ranks by, few enough that exchanging them costs nothing
// beside the gradient.
constexpr std::int64_t kPiece = 65536, kFewestPieces = 16, kMostPieces = 256;

std::int64_t round_up(std::int64_t value, std::int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

std::int64_t cut_unit(const Optimizer& method, const ParamInfo& param) {
  const std::int64_t numel = param.shape.numel();
  const Granularity allowed = method.granularity(param);
  std::int64_t unit = kChunk;
  switch (allowed.unit) {
    case Granularity::Unit::element:
      break;
    case Granularity::Unit::block:
      unit = std::lcm(kChunk, allowed.block);
      break;
    case Granularity::Unit::row:
      unit = std::lcm(kChunk, param.shape.back());
      break;
    case Granularity::Unit::column:  // no flat range holds whole columns
    case Granularity::Unit::whole:
      return std::max<std::int64_t>(numel, 1);
  }
  if (method.needs(param, 1).stat_phases > 0) {
    const std::int64_t pieces = std::clamp(numel / kPiece, kFewestPieces, kMostPieces);
    unit = round_up(std::max<std::int64_t>(numel / pieces, 1), unit);
  }
  return unit;
}

}  // namespace strata::optim
