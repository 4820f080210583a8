#include "parallel/launcher.h"

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

std::optional<LocalPlace> local_place_from_launcher() {
  const auto rank = number("OMPI_COMM_WORLD_LOCAL_RANK");
  const auto size = number("OMPI_COMM_WORLD_LOCAL_SIZE");
  if (rank && size && *rank < *size) {
    return LocalPlace{*rank, *size};
  }
  return std::nullopt;
}

}  // namespace strata::parallel
