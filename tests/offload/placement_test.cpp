#include "offload/placement.h"

#include <algorithm>

#include <gtest/gtest.h>

namespace strata::offload {
namespace {

constexpr Tier kHost{TierKind::host, 0}, kNvme{TierKind::nvme, 0};

TEST(Placement, TextsOfAllBlocksComeBack) {
  const Tiers tiers{.weights = kHost, .state = kNvme, .grads = {}, .activations = kHost};
  EXPECT_EQ(to_string(tiers),
            "weights=host,state=nvme,grads=device,activations=host,update=device");
  EXPECT_EQ(tiers_from(to_string(tiers)), tiers);
  EXPECT_EQ(tiers_from("state=nvme,weights=host,activations=host"), tiers);
  EXPECT_EQ(tiers_by_block_from(to_string(tiers), 3), std::vector<Tiers>(3, tiers));
}

TEST(Placement, TextsByBlockComeBack) {
  std::vector<Tiers> blocks(5, {.state = kNvme});
  blocks[0].state = {};
  blocks[3].weights = blocks[4].weights = kHost;
  blocks[2].update = kHost;
  const std::string text = to_string(blocks);
  EXPECT_EQ(text,
            "weights=0-2:device,3-4:host; state=0:device,1-4:nvme; grads=device; "
            "activations=device; update=0-1:device,2:host,3-4:device");
  EXPECT_EQ(tiers_by_block_from(text, 5), blocks);
  EXPECT_EQ(tiers_by_block_from("state=1-4:nvme,weights=3-4:host,update=2:host", 5), blocks);
}

TEST(Placement, RangesOfTokensAreMicroBatchesEvenlySpread) {
  const Tiers tiers{.activations = kHost, .eighths = 3};
  EXPECT_EQ(to_string(tiers),
            "weights=device,state=device,grads=device,activations=host*3/8,update=device");
  EXPECT_EQ(tiers_from(to_string(tiers)), tiers);
  std::vector<Tiers> blocks(3, tiers);
  blocks[1].eighths = 8;
  EXPECT_EQ(to_string(blocks),
            "weights=device; state=device; grads=device; "
            "activations=0:host*3/8,1:host,2:host*3/8; update=device");
  EXPECT_EQ(tiers_by_block_from(to_string(blocks), 3), blocks);
  PackSizes sizes;
  for (int mb = 0; mb < 16; ++mb) {
    sizes[{PackClass::saved, 1, mb}] = 1;
  }
  for (int eighths = 1; eighths <= 8; ++eighths) {
    const Placement placement =
        placement_of(Tiers{.activations = kHost, .eighths = eighths}, sizes);
    EXPECT_EQ(placement.waits_in.size(), 2u * static_cast<unsigned>(eighths));
    const auto first = static_cast<int>(std::ranges::count_if(
        placement.waits_in, [](const auto& at) { return at.first.micro_batch < 8; }));
    EXPECT_EQ(first, eighths);
  }
}

TEST(Placement, OtherTextsAreNone) {
  for (const char* text : {"weights",
                           "weights=",
                           "weights=disk",
                           "host",
                           "weights=host,0:nvme:1",
                           "0:host",
                           "activations=host*0/8",
                           "activations=host*8/8",
                           "activations=host*3/4",
                           "activations=host*",
                           "state=host*3/8",
                           "loss=host",
                           "update=nvme",
                           "update=1:far",
                           "state=5:nvme",
                           "state=3-2:nvme",
                           "state=-1:nvme",
                           "state=1-:nvme",
                           "state=a:nvme",
                           "state=0-9:nvme",
                           "weights=host,,state=nvme"}) {
    EXPECT_FALSE(tiers_by_block_from(text, 5)) << text;
  }
  EXPECT_TRUE(tiers_by_block_from("state=0-4:nvme", 5));
}

}  // namespace
}  // namespace strata::offload
