#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <dnnl.hpp>

#include "core/cpu/matmul.h"

namespace strata::cpu {

/// One matrix product prepared in oneDNN for a shape and a thread count, with bits that depend on
/// neither threads nor row cuts at multiples of kMatmulRowCut. Not for two threads at once: it
/// points its operands at the bytes of the call.
class DnnlProduct {
 public:
  DnnlProduct(const MatmulShape& shape, Accumulate mode, int threads);
  std::int64_t scratch_bytes() const;
  /// As the library calls it; " in tiles" where we cut them.
  std::string kernel_name() const { return kernel_name_; }
  void run(const ProductOperands& operands, std::byte* scratch);

 private:
  /// A primitive for one size of tile, with one set of operands for each thread that may run it.
  struct Kernel {
    dnnl::matmul primitive;
    std::vector<dnnl::memory> operands;  // A, B, bias, C, scratch of slot 0, then of slot 1, ...
  };
  struct Tile {
    std::int64_t batch, row, column;  // of its first element in C
    std::size_t kernel;
  };
  /// B copied into the layout that the kernel would choose, at the front of the scratch.
  struct Packing {
    dnnl::reorder primitive;
    dnnl::memory plain, packed;
    std::int64_t size_bytes;
  };
  Kernel prepare(const dnnl::matmul::primitive_desc& described);
  bool pack(Accumulate mode);
  void cut(Accumulate mode, int threads);
  void run_tile(const Tile& tile, std::size_t slot);
  void pack_weights();

  MatmulShape shape_;
  std::string kernel_name_;
  int library_threads_;  // the library's own team: ours, or 1 where we cut tiles
  dnnl::stream stream_;
  std::size_t slots_ = 1;  // tiles that may run at once
  std::int64_t slot_scratch_bytes_ = 0;
  std::optional<Packing> packing_;
  std::vector<Kernel> kernels_;
  std::vector<Tile> tiles_;
  ProductOperands call_{};
  std::byte* scratch_ = nullptr;
};

}  // namespace strata::cpu
