#include <algorithm>
#include <tuple>

#include <fmt/format.h>

#include "checkpoint/checkpoint.h"

namespace strata::checkpoint {
namespace {

constexpr std::int64_t kPieceValues = 1 << 17;

std::string name_of(const Reader::Stored& stored) {
  return stored.state + ":" + stored.tensor;
}

std::optional<std::string> difference_of_states(const RunState& a, const RunState& b) {
  if (a.step != b.step) {
    return fmt::format("step: {} and {}", a.step, b.step);
  }
  if (a.samples != b.samples) {
    return fmt::format("samples: {} and {}", a.samples, b.samples);
  }
  if (a.tokens != b.tokens) {
    return fmt::format("tokens: {} and {}", a.tokens, b.tokens);
  }
  if (a.numeric_hash != b.numeric_hash) {
    return fmt::format("numeric_hash: '{}' and '{}'", a.numeric_hash, b.numeric_hash);
  }
  return std::nullopt;
}

std::optional<std::string> difference_of_values(const Reader& a,
                                                const Reader& b,
                                                const Reader::Stored& stored) {
  const std::int64_t width = size_bytes(stored.dtype);
  std::vector<std::byte> left, right;
  for (std::int64_t at = 0; at < stored.numel; at += kPieceValues) {
    const std::int64_t values = std::min(kPieceValues, stored.numel - at);
    left.resize(static_cast<std::size_t>(values * width));
    right.resize(left.size());
    a.read(stored.tensor, stored.state, at, left);
    b.read(stored.tensor, stored.state, at, right);
    const auto where = std::mismatch(left.begin(), left.end(), right.begin()).first;
    if (where != left.end()) {
      return fmt::format(
          "{}: value {} of {}", name_of(stored), at + (where - left.begin()) / width, stored.numel);
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> first_difference(const Reader& a, const Reader& b) {
  if (std::optional<std::string> text = difference_of_states(a.state(), b.state())) {
    return text;
  }
  const auto key = [](const Reader::Stored& s) { return std::tie(s.tensor, s.state); };
  auto left = a.tensors().begin(), right = b.tensors().begin();
  while (left != a.tensors().end() || right != b.tensors().end()) {
    if (right == b.tensors().end() || (left != a.tensors().end() && key(*left) < key(*right))) {
      return fmt::format("{}: only in the first", name_of(*left));
    }
    if (left == a.tensors().end() || key(*right) < key(*left)) {
      return fmt::format("{}: only in the second", name_of(*right));
    }
    if (left->dtype != right->dtype || !(left->shape == right->shape) ||
        left->numel != right->numel) {
      return fmt::format("{}: {} {} and {} {}",
                         name_of(*left),
                         to_string(left->dtype),
                         to_string(left->shape),
                         to_string(right->dtype),
                         to_string(right->shape));
    }
    if (std::optional<std::string> text = difference_of_values(a, b, *left)) {
      return text;
    }
    ++left;
    ++right;
  }
  return std::nullopt;
}

}  // namespace strata::checkpoint
