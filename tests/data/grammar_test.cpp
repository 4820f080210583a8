#include "data/grammar.h"

#include <cmath>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/errors.h"

namespace strata::data {
namespace {

using ::testing::HasSubstr;

constexpr const char* kToy = R"(
var who(name,he) = [3] Al/he | Bea/she
story = <who.name> <act>, <who.he> did.\n | [2] So <who.name> has <thing@who>.\n
act = ran | [2] hid | found <thing@who>
thing:Al = a cat | tea
thing:Bea = <who.he> | a dog | rum
)";

TEST(Grammar, EntropyByHand) {
  const Grammar g(kToy);
  // All stories, by enumeration with pencil and paper: probability of each.
  const auto h = [](std::initializer_list<double> ps) {
    double sum = 0;
    for (const double p : ps) {
      sum -= p * std::log(p);
    }
    return sum;
  };
  const double thing = 0.75 * std::log(2) + 0.25 * std::log(3);
  const double act = h({0.25, 0.5, 0.25}) + 0.25 * thing;
  EXPECT_NEAR(
      g.entropy_nats(), h({0.75, 0.25}) + h({1.0 / 3, 2.0 / 3}) + act / 3 + thing * 2 / 3, 1e-12);
  const double al = 0.5 * (5 + 3), bea = (3 + 5 + 3) / 3.0;
  const double first_al = 2 + 1 + 0.75 * 3 + 0.25 * (6 + al) + 2 + 2 + 6;
  const double first_bea = 3 + 1 + 0.75 * 3 + 0.25 * (6 + bea) + 2 + 3 + 6;
  const double second_al = 3 + 2 + 5 + al + 2, second_bea = 3 + 3 + 5 + bea + 2;
  EXPECT_NEAR(
      g.expected_bytes(),
      (0.75 * first_al + 0.25 * first_bea) / 3 + (0.75 * second_al + 0.25 * second_bea) * 2 / 3,
      1e-12);
}

TEST(Grammar, ProbabilitiesOfStories) {
  const Grammar g(kToy);
  EXPECT_NEAR(g.log_probability("Al ran, he did.\n"), std::log(0.75 / 3 * 0.25), 1e-12);
  EXPECT_NEAR(g.log_probability("So Bea has she.\n"), std::log(0.25 * 2 / 3 / 3), 1e-12);
  for (const char* none : {"",
                           "Al ran, she did.\n",
                           "Al ran, he did.",
                           "Bea found tea, she did.\n",
                           "So Al has tea.\n\n"}) {
    EXPECT_EQ(g.derivations(none), 0) << none;
    EXPECT_EQ(g.log_probability(none), -INFINITY) << none;
  }
}

TEST(Grammar, AmbiguityIsCounted) {
  const Grammar g("story = <a><a>\na = x | xx | [2] y\n");
  EXPECT_EQ(g.derivations("xxx"), 2);
  EXPECT_NEAR(g.log_probability("xxx"), std::log(2.0 / 16), 1e-12);
  EXPECT_EQ(g.derivations("xy"), 1);
  const Grammar silent("var v(a) = 1 | 2 | 3\nstory = x | <v.a>\n");
  EXPECT_EQ(silent.derivations("x"), 3);
  EXPECT_NEAR(silent.log_probability("x"), std::log(0.5), 1e-12);
}

TEST(Grammar, MalformedRulesAreRefused) {
  for (const char* bad : {"story = <none>\n",
                          "story = a <story>\n",
                          "story = <x@v>\nvar v(a) = 1\n",
                          "other = a\n",
                          "story\n",
                          "var v(a,b) = 1\nstory = <v.a>\n"}) {
    EXPECT_THAT(tests::expect_error(Errc::internal, {}, [&] { Grammar{bad}; }),
                HasSubstr("grammar: "))
        << bad;
  }
}

TEST(Grammar, StoriesFollowTheirSeed) {
  const Grammar g = Grammar::stories();
  const std::string text = g.generate(3, 5000);
  EXPECT_GE(text.size(), 5000u);
  EXPECT_EQ(text, g.generate(3, 5000));
  EXPECT_EQ(g.generate(3, 20000).substr(0, text.size()), text);
  EXPECT_NE(text, g.generate(4, 5000));
  EXPECT_EQ(text.back(), '\n');
}

TEST(Grammar, OddsAreKept) {
  const Grammar g("story = [3] a | [1] b\n");
  const std::string text = g.generate(1, 40000);
  const auto as = std::count(text.begin(), text.end(), 'a');
  EXPECT_NEAR(static_cast<double>(as), 30000, 5 * std::sqrt(40000 * 0.75 * 0.25));
}

/// The exact floor against the mean of what sampled stories cost.
TEST(Grammar, SampledStoriesCostTheExactEntropyOnAverage) {
  const Grammar g = Grammar::stories();
  constexpr int kStories = 4000;
  double nats = 0, bytes = 0, nats_squared = 0, bytes_squared = 0;
  for (std::uint64_t i = 0; i < kStories; ++i) {
    const std::string story = g.story(11, i);
    const double cost = -g.log_probability(story), length = static_cast<double>(story.size());
    nats += cost;
    bytes += length;
    nats_squared += cost * cost;
    bytes_squared += length * length;
  }
  const auto error_of_mean = [&](double sum, double squares) {
    return std::sqrt((squares / kStories - sum / kStories * (sum / kStories)) / kStories);
  };
  EXPECT_NEAR(nats / kStories, g.entropy_nats(), 4 * error_of_mean(nats, nats_squared));
  EXPECT_NEAR(bytes / kStories, g.expected_bytes(), 4 * error_of_mean(bytes, bytes_squared));
  EXPECT_NEAR(nats / bytes, g.entropy_nats_per_byte(), 0.003);
  EXPECT_GT(g.entropy_nats_per_byte(), 0.3);
  EXPECT_LT(g.entropy_nats_per_byte(), 0.6);
}

TEST(Grammar, StoriesAreUnambiguous) {
  const Grammar g = Grammar::stories();
  for (std::uint64_t i = 0; i < 2000; ++i) {
    const std::string story = g.story(5, i);
    ASSERT_EQ(g.derivations(story), 1) << story;
  }
}

TEST(Grammar, StoriesAreVariedAndOfFourToSevenSentences) {
  const Grammar g = Grammar::stories();
  std::map<std::string, int> seen;
  for (std::uint64_t i = 0; i < 3000; ++i) {
    const std::string story = g.story(8, i);
    ++seen[story];
    const auto ends = std::count(story.begin(), story.end(), '.');
    EXPECT_TRUE(ends >= 4 && ends <= 7) << story;
    EXPECT_EQ(story.find('\n'), story.size() - 1);
    EXPECT_EQ(story.find("  "), std::string::npos) << story;
    for (const char c : story) {
      ASSERT_TRUE(c == '\n' || (c >= ' ' && c < 127)) << story;
    }
  }
  EXPECT_EQ(seen.size(), 3000u);
}

}  // namespace
}  // namespace strata::data
