// What every method must keep, whatever it computes: bytes that do not depend on how it is run, a
// state that is all there is, and sanity where gradients are not.
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/optim/method_harness.h"
#include "tests/optim/method_rig.h"

namespace strata::tests {
namespace {

using optim::Setting;
using optim::SettingInfo;
using ::testing::HasSubstr;

/// All methods in all formats; or, in short runs, every method in f32 and those that move weights
/// in a way of their own in every format.
enum class Extent : std::uint8_t { some, all };

template <class Body>
void for_every_method(Extent extent, const Body& body) {
  for (const std::string& name : optim::optimizer_names()) {
    const bool formats = extent == Extent::all || name == "adamw" || name == "microadam";
    for (const WeightFormat format : weight_formats()) {
      if (formats || format == WeightFormat::f32) {
        SCOPED_TRACE(name + " " + std::string(to_string(format)));
        body(name, format);
      }
    }
  }
}

/// Fields that hold weights all the time: a master may end with the turn of its block.
bool is_weight(const std::string& method, const std::string& field) {
  const bool lasts = !optim::make_optimizer(method, {})->freezes();
  return field == "working" || (lasts && field.starts_with("weight"));
}

void expect_equal(const MethodRig::Bytes& got, const MethodRig::Bytes& want) {
  ASSERT_EQ(got.size(), want.size());
  for (const auto& [field, bytes] : want) {
    const auto found = got.find(field);
    ASSERT_NE(found, got.end()) << field.first << " " << field.second;
    ASSERT_TRUE(found->second == bytes) << field.first << " " << field.second;
  }
}

/// Every level of instructions and number of threads; products of matrices keep their bytes over
/// threads alone.
template <class Body>
void for_every_way(Extent extent, const std::string& method, const Body& body) {
  const cpu::IsaLevel best = cpu::isa_level();
  optim::for_every_way_to_run([&] {
    // Each level and each number of threads once, and the two ends of the rest.
    const int level = static_cast<int>(cpu::isa_level());
    const bool chosen = extent == Extent::all || thread_count() == 1 + level % 3 ||
                        (cpu::isa_level() == best && thread_count() <= 2);
    if (chosen && (!multiplies(method) || cpu::isa_level() == best)) {
      body();
    }
  });
}

void bytes_do_not_depend_on_the_way(Extent extent) {
  for_every_method(extent, [&](const std::string& name, WeightFormat format) {
    MethodRig::Bytes first;
    for_every_way(extent, name, [&] {
      MethodRig rig(name, small_settings(name), format);
      for (std::int64_t t = 1; t <= 3; ++t) {
        step_alone(rig, t, gradient_of(t));
      }
      const MethodRig::Bytes now = rig.collect();
      first.empty() ? first = now : first;
      expect_equal(now, first);
    });
  });
}
TEST(EveryMethod, BytesDoNotDependOnThreadsOrInstructionSet) {
  bytes_do_not_depend_on_the_way(Extent::some);
}
TEST(EveryMethod, SlowBytesDoNotDependOnThreadsOrInstructionSet) {
  bytes_do_not_depend_on_the_way(Extent::all);
}

// Nothing hides in the method or the updater: what a checkpoint holds is all that goes on.
void continues_from_its_bytes(Extent extent) {
  for_every_method(extent, [](const std::string& name, WeightFormat format) {
    const std::vector<Setting> settings = small_settings(name);
    MethodRig straight(name, settings, format);
    for (std::int64_t t = 1; t <= 3; ++t) {
      step_alone(straight, t, gradient_of(t));
    }
    MethodRig resumed(name, settings, format);
    resumed.adopt(straight);
    for (std::int64_t t = 4; t <= 6; ++t) {
      step_alone(straight, t, gradient_of(t));
      step_alone(resumed, t, gradient_of(t));
    }
    expect_equal(resumed.collect(), straight.collect());
  });
}
TEST(EveryMethod, ContinuesFromItsBytesInANewUpdater) {
  continues_from_its_bytes(Extent::some);
}
TEST(EveryMethod, SlowContinuesFromItsBytesInANewUpdater) {
  continues_from_its_bytes(Extent::all);
}

// bf16 beside an f32 master: the master runs as f32 alone does, and the copy is its rounding.
TEST(EveryMethod, MasterWeightsAreThoseOfF32) {
  for (const std::string& name : optim::optimizer_names()) {
    if (optim::make_optimizer(name, {})->freezes()) {
      continue;  // the master ends with the turn
    }
    SCOPED_TRACE(name);
    MethodRig plain(name, small_settings(name), WeightFormat::f32);
    MethodRig master(name, small_settings(name), WeightFormat::bf16_master);
    for (std::int64_t t = 1; t <= 3; ++t) {
      step_alone(plain, t, gradient_of(t));
      step_alone(master, t, gradient_of(t));
    }
    const MethodRig::Bytes want = plain.collect(), got = master.collect();
    for (const auto& [field, bytes] : want) {
      if (field.second != "working") {
        ASSERT_TRUE(got.at(field) == bytes) << field.first << " " << field.second;
        continue;
      }
      const auto* const precise = reinterpret_cast<const float*>(bytes.data());
      const auto* const copy = reinterpret_cast<const bf16*>(got.at(field).data());
      for (std::size_t i = 0; i < bytes.size() / 4; ++i) {
        ASSERT_EQ(to_float(copy[i]), to_float(to_bf16(precise[i]))) << field.first << i;
      }
    }
  }
}

/// Every float of weights and state is one, and no E4M3 code is NaN.
void expect_finite(MethodRig& rig) {
  for (int b = 0; b < rig.blocks_count(); ++b) {
    for (const StateEntry& entry : rig.updater.block(b).entries) {
      const std::byte* const at = rig.bytes(entry.pack).data() + entry.offset;
      for (std::int64_t i = 0; i < entry.numel; ++i) {
        float value = 0.f;
        if (entry.dtype == DType::f32) {
          value = reinterpret_cast<const float*>(at)[i];
        } else if (entry.dtype == DType::bf16) {
          value = to_float(reinterpret_cast<const bf16*>(at)[i]);
        }
        ASSERT_TRUE(std::isfinite(value)) << entry.tensor << " " << entry.state << " " << i;
      }
    }
  }
}

struct Fault {
  const char* name;
  MethodRig::Fill gradient;
};

const std::vector<Fault>& faults() {
  static const std::vector<Fault> all{
      {"zero", [](const ParamInfo&, std::int64_t) { return 0.f; }},
      {"denormal",
       [](const ParamInfo&, std::int64_t i) { return (i % 2 == 0 ? 1.f : -1.f) * 1e-40f; }},
      {"least", [](const ParamInfo&, std::int64_t) { return 1e-45f; }},
      {"constant", [](const ParamInfo&, std::int64_t) { return 0.25f; }},
      {"one magnitude", [](const ParamInfo&, std::int64_t i) { return i % 3 == 0 ? 2.f : -2.f; }},
      {"one element", [](const ParamInfo&, std::int64_t i) { return i == 0 ? 3.f : 0.f; }},
      {"one tensor", [](const ParamInfo& p, std::int64_t) { return p.id == 12 ? 1e-3f : 0.f; }},
      {"wide", [](const ParamInfo&, std::int64_t i) { return i % 2 == 0 ? 1e6f : 1e-12f; }},
  };
  return all;
}

// From a fresh state, then among ordinary gradients: small shapes are among the tensors.
void stays_finite(Extent extent) {
  for_every_method(extent, [](const std::string& name, WeightFormat format) {
    for (const Fault& fault : faults()) {
      SCOPED_TRACE(fault.name);
      MethodRig rig(name, small_settings(name), format);
      for (std::int64_t t = 1; t <= 3; ++t) {
        step_alone(rig, t, t == 2 ? gradient_of(t) : fault.gradient);
        expect_finite(rig);
        ASSERT_FALSE(::testing::Test::HasFatalFailure()) << "step " << t;
      }
    }
  });
}
TEST(EveryMethod, StaysFiniteWhateverFiniteGradientsCome) {
  stays_finite(Extent::some);
}
TEST(EveryMethod, SlowStaysFiniteWhateverFiniteGradientsCome) {
  stays_finite(Extent::all);
}

void rate_zero_keeps_weights(Extent extent) {
  for_every_method(extent, [](const std::string& name, WeightFormat format) {
    MethodRig rig(name, small_settings(name), format);
    step_alone(rig, 1, gradient_of(1));
    const MethodRig::Bytes before = rig.collect();
    for (std::int64_t t = 2; t <= 4; ++t) {
      step_alone(rig, t, gradient_of(t), 0.0);
    }
    for (const auto& [field, bytes] : rig.collect()) {
      if (is_weight(name, field.second)) {
        EXPECT_TRUE(before.at(field) == bytes) << field.first << " " << field.second;
      }
    }
  });
}
TEST(EveryMethod, LearningRateZeroKeepsTheBitsOfWeights) {
  rate_zero_keeps_weights(Extent::some);
}
TEST(EveryMethod, SlowLearningRateZeroKeepsTheBitsOfWeights) {
  rate_zero_keeps_weights(Extent::all);
}

// Without decay, a gradient that was never there moves nothing: no rounding, no new scale.
void zero_gradients_keep_weights(Extent extent) {
  for_every_method(extent, [](const std::string& name, WeightFormat format) {
    std::vector<Setting> settings = small_settings(name);
    settings.push_back({"weight_decay", "0"});
    MethodRig rig(name, settings, format);
    const MethodRig::Bytes before = rig.collect();
    for (std::int64_t t = 1; t <= 3; ++t) {
      step_alone(rig, t, faults()[0].gradient);
    }
    for (const auto& [field, bytes] : rig.collect()) {
      if (is_weight(name, field.second)) {
        EXPECT_TRUE(before.at(field) == bytes) << field.first << " " << field.second;
      }
    }
  });
}
TEST(EveryMethod, ZeroGradientsKeepTheBitsOfWeights) {
  zero_gradients_keep_weights(Extent::some);
}
TEST(EveryMethod, SlowZeroGradientsKeepTheBitsOfWeights) {
  zero_gradients_keep_weights(Extent::all);
}

// The step is skipped by whoever asks; asking changes nothing.
TEST(EveryMethod, NonFiniteGradientsAreFoundBeforeAnythingChanges) {
  for_every_method(Extent::some, [](const std::string& name, WeightFormat format) {
    MethodRig rig(name, small_settings(name), format);
    step_alone(rig, 1, gradient_of(1));
    const MethodRig::Bytes before = rig.collect();
    EXPECT_FALSE(rig.non_finite());
    const auto [id, last] = rig.trains(17) ? std::pair(17, 4100) : std::pair(10, 50 * 96 - 1);
    for (const float bad : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
      rig.set_gradients(
          [&](const ParamInfo& p, std::int64_t i) { return p.id == id && i == last ? bad : 0.1f; });
      EXPECT_TRUE(rig.non_finite());
    }
    expect_equal(rig.collect(), before);
  });
}

std::string refusal(const std::string& method, const std::vector<Setting>& settings) {
  try {
    optim::make_optimizer(method, settings);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::config);
    return error.what();
  }
  return "accepted";
}

/// Values out of range of a numeric setting, each beside words of the answer.
using Refused = std::vector<std::pair<std::string, std::string>>;
const std::map<std::string, Refused>& out_of_range() {
  static const std::map<std::string, Refused> all{
      {"beta1", {{"-0.1", "0 <= beta1 < 1"}, {"1", "0 <= beta1 < 1"}}},
      {"beta2", {{"-0.1", "0 <= beta2 < 1"}, {"1", "0 <= beta2 < 1"}}},
      {"eps", {{"0", "at least 1e-30"}, {"-1", "at least 1e-30"}}},
      {"momentum", {{"-0.1", "0 <= momentum < 1"}, {"1", "0 <= momentum < 1"}}},
      {"dampening", {{"-0.1", "0 <= dampening <= 1"}, {"1.1", "0 <= dampening <= 1"}}},
      {"weight_decay", {{"-0.1", "at least 0"}}},
      {"min_coded", {{"0", "at least 1"}}},
      {"percentile_clip", {{"0", "1 to 100"}, {"101", "1 to 100"}}},
      {"ns_steps", {{"0", "1 to 20"}, {"21", "1 to 20"}}},
      {"aux.lr_ratio", {{"-1", "at least 0"}}},
      {"refresh_every", {{"0", "at least 1"}}},
      {"blocks", {{"0", "at least 1"}}},
      {"rank", {{"-1", "at least 0"}}},
      {"scale", {{"0", "above 0"}, {"-1", "above 0"}}},
      {"growth", {{"0.99", "at least 1"}}},
      {"rest_lr", {{"-1", "at least 0"}}},
      {"density", {{"0", "0 < density <= 1"}, {"1.5", "0 < density <= 1"}}},
      {"window", {{"0", "1 to 64"}, {"65", "1 to 64"}}},
      {"damping", {{"0", "above 0"}}},
      {"fisher_damping", {{"0", "above 0"}}},
      {"fisher_window", {{"0", "1 to 256"}, {"257", "1 to 256"}}},
      {"lazy_similarity", {{"-0.1", "0 to 1"}, {"1.1", "0 to 1"}}},
      {"covariance_beta",
       {{"-0.1", "0 <= covariance_beta < 1"}, {"1", "0 <= covariance_beta < 1"}}},
  };
  return all;
}

bool is_number(const std::string& text) {
  char* end = nullptr;
  std::strtod(text.c_str(), &end);
  return !text.empty() && *end == '\0';
}

TEST(EveryMethod, RefusesValuesOutOfRangeByNameAndSaysWhatIsLegal) {
  for (const std::string& method : optim::optimizer_names()) {
    for (const SettingInfo& info : optim::optimizer_settings(method)) {
      SCOPED_TRACE(method + " " + info.name);
      const std::string key = "optim." + info.name + ":";
      const bool choice = !is_number(info.default_value);
      EXPECT_THAT(refusal(method, {{info.name, "no such value"}}), HasSubstr(key));
      if (choice) {
        continue;
      }
      EXPECT_THAT(refusal(method, {{info.name, "nan"}}), HasSubstr(key));
      auto known = out_of_range().find(info.name);
      if (known == out_of_range().end() && info.name.starts_with("aux.")) {
        known = out_of_range().find(info.name.substr(4));
      }
      ASSERT_NE(known, out_of_range().end()) << "no value out of its range is known";
      for (const auto& [value, words] : known->second) {
        const std::string answer = refusal(method, {{info.name, value}});
        EXPECT_THAT(answer, HasSubstr(key)) << value;
        EXPECT_THAT(answer, HasSubstr(words)) << value;
      }
    }
  }
}

TEST(EveryMethod, AnswersUnknownSettingsWithTheNearest) {
  for (const std::string& method : optim::optimizer_names()) {
    for (const SettingInfo& info : optim::optimizer_settings(method)) {
      const std::string answer = refusal(method, {{info.name + "z", info.default_value}});
      EXPECT_THAT(answer, HasSubstr("'optim." + info.name + "'")) << method;
    }
  }
}

// What a setting may be can depend on the matrix: then the answer names it, and the nearest value.
TEST(EveryMethod, RefusesRanksAboveTheShortSide) {
  for (const char* method : {"galore", "galore8bit", "fira", "apollo", "apollo_mini"}) {
    const auto made = optim::make_optimizer(method, std::vector<Setting>{{"rank", "38"}});
    const ParamInfo odd{15, "odd", Role::matrix, {37, 61}};
    try {
      made->state_layout(odd);
      ADD_FAILURE() << method;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Errc::config);
      EXPECT_THAT(error.what(), HasSubstr("optim.rank: needs at most 37"));
      EXPECT_THAT(error.what(), HasSubstr("the nearest is optim.rank=37"));
    }
  }
}

// Defaults given as text are the defaults.
TEST(EveryMethod, DefaultsAsTextChangeNothing) {
  for (const std::string& method : optim::optimizer_names()) {
    SCOPED_TRACE(method);
    std::vector<Setting> all;
    for (const SettingInfo& info : optim::optimizer_settings(method)) {
      all.push_back({info.name, info.default_value});
    }
    MethodRig plain(method, {}, WeightFormat::f32), said(method, all, WeightFormat::f32);
    for (std::int64_t t = 1; t <= 2; ++t) {
      step_alone(plain, t, gradient_of(t));
      step_alone(said, t, gradient_of(t));
    }
    expect_equal(said.collect(), plain.collect());
  }
}

}  // namespace
}  // namespace strata::tests
