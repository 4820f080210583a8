#pragma once
#include <cstdint>

namespace strata::cpu {

/// to[j * to_stride + i] = from[i * from_stride + j] for i < rows, j < columns, elements of
/// `element_bytes` (2 or 4). Whole blocks go through registers where the instruction set allows it.
/// One thread; strides in elements.
void transpose_block(void* to,
                     std::int64_t to_stride,
                     const void* from,
                     std::int64_t from_stride,
                     std::int64_t rows,
                     std::int64_t columns,
                     std::int64_t element_bytes);

/// The whole of a dense matrix, by all threads: to (columns, rows) = from (rows, columns).
void transpose_matrix(void* to,
                      const void* from,
                      std::int64_t rows,
                      std::int64_t columns,
                      std::int64_t element_bytes);

}  // namespace strata::cpu
