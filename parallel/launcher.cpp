#include "parallel/launcher.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>

namespace strata::parallel {
namespace {

std::optional<int> number(const char* variable) {
  const char* const text = std::getenv(variable);
  int value = 0;
  if (text == nullptr) {
    return std::nullopt;
  }
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
  return error == std::errc{} && *end == '\0' && value >= 0 ? std::optional(value) : std::nullopt;
}

}  // namespace

bool under_mpi_launcher() {
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(variable) != nullptr) {
      return true;
    }
  }
  return false;
}

int ranks_of_launcher() {
  if (!under_mpi_launcher()) {
    return 1;  // SLURM_NTASKS stands in the environment of every batch script
  }
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"}) {
    if (const auto size = number(variable)) {
      return std::max(1, *size);
    }
  }
  return 1;
}

std::optional<LocalPlace> local_place_from_launcher() {
  const auto rank = number("OMPI_COMM_WORLD_LOCAL_RANK");
  const auto size = number("OMPI_COMM_WORLD_LOCAL_SIZE");
  if (rank && size && *rank < *size) {
    return LocalPlace{*rank, *size};
  }
  return std::nullopt;
}

}  // namespace strata::parallel
