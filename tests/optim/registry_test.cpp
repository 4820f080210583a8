#include "optim/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace strata::optim {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;

std::string refusal(std::string_view method, std::vector<Setting> settings) {
  try {
    make_optimizer(method, settings);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::config);
    return error.what();
  }
  return "accepted";
}

TEST(Registry, KnowsItsMethodsAndTheirSettings) {
  EXPECT_THAT(optimizer_names(), Contains("adamw"));
  EXPECT_THAT(optimizer_names(), Contains("sgd"));
  std::string all;
  for (const SettingInfo& info : optimizer_settings("adamw")) {
    EXPECT_FALSE(info.help.empty()) << info.name;
    all += info.name + "=" + info.default_value + " ";
  }
  EXPECT_THAT(all, HasSubstr("rule=adam states=f32 "));
  EXPECT_THAT(all, HasSubstr(" weight_decay=0.1 decay=no_vectors "));
  EXPECT_THAT(all, HasSubstr(" beta1=0.9 beta2=0.95 eps=1e-08 family=pytorch "));
}

TEST(Registry, EveryMethodTakesItsOwnDefaultsAsText) {
  for (const std::string& name : optimizer_names()) {
    std::vector<Setting> settings;
    for (const SettingInfo& info : optimizer_settings(name)) {
      settings.push_back({info.name, info.default_value});
    }
    EXPECT_NE(make_optimizer(name, settings), nullptr);
  }
}

TEST(Registry, UnknownNamesAreAnsweredWithTheNearest) {
  EXPECT_THAT(refusal("adamx", {}), AllOf(HasSubstr("'adamx'"), HasSubstr("'adamw'")));
  EXPECT_THAT(refusal("adamw", {{"weight_decy", "0.1"}}),
              AllOf(HasSubstr("optim.weight_decy"), HasSubstr("optim.weight_decay")));
  EXPECT_THROW(optimizer_settings("nothing"), Error);
}

TEST(Registry, ValuesOutOfRangeAreRefusedByKey) {
  EXPECT_EQ(refusal("adamw", {{"beta1", "1.5"}}), "optim.beta1: needs 0 <= beta1 < 1, got '1.5'");
  EXPECT_THAT(refusal("adamw", {{"beta2", "-0.1"}}), HasSubstr("optim.beta2"));
  EXPECT_THAT(refusal("adamw", {{"eps", "0"}}), HasSubstr("optim.eps"));
  EXPECT_THAT(refusal("sgd", {{"nesterov", "true"}}), HasSubstr("optim.momentum"));
  EXPECT_THAT(refusal("sgd", {{"nesterov", "true"}, {"momentum", "0.9"}, {"dampening", "0.1"}}),
              HasSubstr("optim.dampening"));
}

TEST(Registry, ValuesOfTheWrongTypeAreRefused) {
  for (const char* bad : {"", "abc", "0.9x", " 0.9", "nan", "inf", "1e999"}) {
    EXPECT_THAT(refusal("adamw", {{"beta1", bad}}), HasSubstr("optim.beta1: needs a number"))
        << bad;
  }
  EXPECT_THAT(refusal("sgd", {{"nesterov", "yes"}}), HasSubstr("needs true or false, got 'yes'"));
  EXPECT_THAT(refusal("adamw", {{"family", "jax"}}), HasSubstr("one of pytorch, bnb, hf"));
}

TEST(Registry, ParsesWholeNumbers) {
  std::int64_t value = 0;
  parse("rank", "-12", value);
  EXPECT_EQ(value, -12);
  EXPECT_THROW(parse("rank", "1.5", value), Error);
  EXPECT_THROW(parse("rank", "99999999999999999999", value), Error);
  EXPECT_EQ(value, -12);
  EXPECT_EQ(to_text(value), "-12");
}

TEST(Registry, ANameIsTakenOnce) {
  EXPECT_THROW(register_method({"sgd", nullptr, nullptr}), Error);
}

}  // namespace
}  // namespace strata::optim
