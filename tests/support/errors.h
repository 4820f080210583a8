#pragma once
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "core/error.h"

namespace strata::tests {

/// Expects `body` to throw strata::Error with this code and with every one of `words` in its
/// message. Returns the message.
inline std::string expect_error(Errc code,
                                std::initializer_list<std::string_view> words,
                                const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), static_cast<int>(code)) << error.what();
    const std::string text = error.what();
    for (const std::string_view word : words) {
      EXPECT_NE(text.find(word), std::string::npos) << "no '" << word << "' in: " << text;
    }
    return text;
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

}  // namespace strata::tests
