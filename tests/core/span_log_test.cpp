#include "core/span_log.h"

#include <gtest/gtest.h>

namespace strata {
namespace {

TEST(SpanLog, KeepsWhatItHasRoomForAndCountsTheRest) {
  SpanLog log(2);
  for (const int block : {1, 2, 3}) {
    const SpanTimer timer(&log, {.name = "linear", .direction = "forward", .block = block});
  }
  ASSERT_EQ(log.spans().size(), 2U);
  EXPECT_EQ(log.lost(), 1);
  EXPECT_EQ(log.spans()[1].block, 2);
  EXPECT_LE(log.spans()[0].end_ns, log.spans()[1].begin_ns);
  EXPECT_LE(log.spans()[0].begin_ns, log.spans()[0].end_ns);
  log.clear();
  EXPECT_TRUE(log.spans().empty());
  EXPECT_EQ(log.lost(), 0);
}

TEST(SpanLog, InnerSpansEndBeforeOuterOnes) {
  SpanLog log(4);
  {
    const SpanTimer outer(&log, {.kind = Span::Kind::instruction, .name = "forward"});
    const SpanTimer inner(&log, {.name = "linear"});
  }
  ASSERT_EQ(log.spans().size(), 2U);
  EXPECT_EQ(log.spans()[0].name, "linear");
  EXPECT_LE(log.spans()[1].begin_ns, log.spans()[0].begin_ns);
  EXPECT_LE(log.spans()[0].end_ns, log.spans()[1].end_ns);
}

TEST(SpanLog, WithoutALogNothingHappens) {
  const SpanTimer timer(nullptr, {.name = "linear"});
}

}  // namespace
}  // namespace strata
