#include "core/error.h"

namespace strata {

Error::Error(Errc code, const std::string& message, std::source_location where)
    : std::runtime_error(message), code_(code), where_(where) {}

void assertion_failed(const char* condition, std::source_location where) {
  throw Error(Errc::internal,
              std::string("internal: ") + condition + " does not hold in " + where.file_name() +
                  ":" + std::to_string(where.line()),
              where);
}

}  // namespace strata
