#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "core/matmul.h"
#include "core/memory.h"
#include "launch/commands.h"
#include "optim/optimizer.h"

namespace strata::launch {

// What can be timed, one function a file. Each takes the words behind its name.
int bench_step(Words words);
int bench_optim(Words words);
int bench_subspace(Words words);
int bench_attention(Words words);
int bench_allreduce(Words words);
int bench_hardware(Words words);

/// What the timed program runs on: processor, threads, instruction set, matrix library.
nlohmann::json machine_json();

/// "rank=64,scale=0.5", settings of an optimizer. Throws config.
std::vector<optim::Setting> settings_of(std::string_view text);

/// f32 or bf16. Throws config naming the command.
DType dtype_of_word(const std::string& command, const std::string& word);

double median(std::vector<double> values);
double seconds_of(const std::function<void()>& work);
/// Least of `repeats` timings, after one run that is not timed.
double best_seconds(int repeats, const std::function<void()>& work);

/// Random numbers in [-1/2, 1/2), the same for every number of threads. f32 or bf16.
void fill_random(const Tensor& to);

/// Memory in huge pages where the system gives them, filled with random numbers in [-1/2, 1/2):
/// products of zeros run faster than those of a model.
class RandomMemory {
 public:
  RandomMemory(std::int64_t numel, DType dtype);
  /// The first elements, as many as the shape has.
  Tensor tensor(const Shape& shape) const;

 private:
  DType dtype_;
  Arena arena_;
};

/// What the products of a step cost when each is run alone.
struct ProductRate {
  double flops = 0;          // multiply-adds counted twice
  double seconds = 0;        // sum over the products of the best of five times of each
  std::vector<double> best;  // seconds of one run, by product
  double gflops() const { return flops / seconds * 1e-9; }
};
double product_flops(const MatmulShape& shape);
/// Times each product in the form in which the step uses it, as often as it does.
ProductRate product_rate(std::span<const ProductUse> uses);

/// What `bench step` found, as a table to stdout.
void print_step_report(const nlohmann::json& report);

}  // namespace strata::launch
