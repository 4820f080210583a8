#pragma once
#include <algorithm>
#include <cstdint>

#include "core/for_each.h"

namespace strata {

/// Calls body(begin, end) over ranges of the blocks [0, count), each of `block` elements, where the
/// stream's device is. A block's result must not depend on the others. `body` is copied.
template <class Body>
void for_each_block(Stream& stream, std::int64_t count, std::int64_t block, const Body& body) {
  if (stream.lane() == Lane::compute) {
    parallel_for(count, std::max<std::int64_t>(1, kChunk / block), body);
  } else {  // another lane is one thread and never opens a team
    stream.enqueue([count, body] { body(0, count); });
  }
}

}  // namespace strata
