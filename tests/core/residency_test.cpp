#include "core/residency.h"

#include <deque>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace strata {
namespace {

const std::vector<PackKey> kPacks{{PackClass::weights, 0}, {PackClass::saved, 1, 0}};
const std::vector<Tier> kTiers{{TierKind::device, 0}, {TierKind::host, 0}, {TierKind::nvme, 0}};

/// What really lies in each replica, beside the books that say what may be done.
struct World {
  Residency books;
  std::map<Replica, int> bytes;
  std::map<PackKey, int> latest;
  std::vector<Instruction> under_way;
  std::map<Replica, Access> used;

  /// The same for two worlds that differ in nothing but how often they were written.
  std::string name() const {
    std::string text;
    for (const Replica& replica : books.replicas()) {
      text += to_string(replica) + (bytes.at(replica) == latest.at(replica.key) ? "=" : "!");
    }
    for (const Instruction& i : under_way) {
      text += std::string(to_string(i.op)) + to_string(Replica{i.key(), i.source}) +
              to_string(i.tier) + (i.clean ? "c" : "");
    }
    for (const auto& [replica, access] : used) {
      text += to_string(replica) + (access == Access::write ? "w" : "r");
    }
    return text;
  }
};

/// All worlds one transition away; whatever the books allow is done.
class Explorer {
 public:
  std::vector<World> next(const World& world) {
    worlds_.clear();
    for (const PackKey key : kPacks) {
      for (const Tier tier : kTiers) {
        touch(world, {key, tier});
        for (const Tier to : kTiers) {
          for (const Op op : {Op::fetch, Op::evict, Op::save, Op::restore}) {
            move(world,
                 {.op = op,
                  .block = key.block,
                  .micro_batch = key.micro_batch,
                  .cls = key.cls,
                  .tier = to,
                  .source = tier});
          }
        }
      }
    }
    complete(world);
    return std::move(worlds_);
  }
  std::string wrong;

 private:
  void touch(const World& world, const Replica& replica) {
    World w = world;
    if (!w.latest.contains(replica.key) && w.books.create(replica).empty()) {
      w.bytes[replica] = w.latest[replica.key] = 1;
      keep(w);
    }
    w = world;
    if (w.books.destroy(replica).empty()) {
      if (w.used.contains(replica)) {
        wrong = "ended while in use";
      }
      w.bytes.erase(replica);
      bool any = false, good = false;
      for (const auto& [other, value] : w.bytes) {
        any = any || other.key == replica.key;
        good = good || (other.key == replica.key && value == w.latest[replica.key]);
      }
      if (!any) {
        w.latest.erase(replica.key);
      } else if (!good) {
        wrong = "the latest bytes are lost";
      }
      keep(w);
    }
    for (const Access access : {Access::read, Access::write}) {
      w = world;
      if (w.used.contains(replica) || !w.books.begin_use(replica, access).empty()) {
        continue;
      }
      if (w.bytes.at(replica) != w.latest.at(replica.key)) {
        wrong = "outdated bytes are used";
      }
      if (access == Access::write) {
        w.bytes[replica] = ++w.latest[replica.key];
      }
      w.used[replica] = access;
      keep(w);
    }
    w = world;
    if (const auto use = w.used.find(replica); use != w.used.end()) {
      w.books.end_use(replica, use->second);
      w.used.erase(use);
      keep(w);
    }
  }
  void move(const World& world, Instruction i) {
    for (const bool clean : {false, true}) {
      World w = world;
      i.clean = clean;
      if ((clean && i.op != Op::evict) || !w.books.start(i).empty()) {
        continue;
      }
      w.bytes.try_emplace({i.key(), i.tier}, 0);
      w.under_way.push_back(i);
      keep(w);
    }
  }
  void complete(const World& world) {
    for (std::size_t k = 0; k < world.under_way.size(); ++k) {
      World w = world;
      const Instruction i = w.under_way[k];
      w.under_way.erase(w.under_way.begin() + static_cast<std::ptrdiff_t>(k));
      if (const std::string refused = w.books.finish(i); !refused.empty()) {
        wrong = refused;
        continue;
      }
      if (!i.clean) {  // the bytes that are there at the end are those that arrive
        w.bytes[{i.key(), i.tier}] = w.bytes.at({i.key(), i.source});
      }
      if (i.op != Op::fetch) {
        w.bytes.erase({i.key(), i.source});
      }
      keep(w);
    }
  }
  void keep(World& w) {
    if (const std::string text = w.books.violation(); !text.empty()) {
      wrong = text;
    }
    for (const auto& [key, value] : w.latest) {
      bool good = false;
      for (const auto& [replica, bytes] : w.bytes) {
        good = good || (replica.key == key && bytes == value);
      }
      wrong = good ? wrong : "the latest bytes are nowhere";
    }
    worlds_.push_back(std::move(w));
  }
  std::vector<World> worlds_;
};

/// Every order of everything that two packs in three tiers can undergo, one pack at a time at first
/// and then both: no use of outdated bytes, nothing lost, no writer beside others.
TEST(Residency, KeepsItsInvariantsOverAllInterleavings) {
  std::set<std::string> seen;
  std::deque<World> open{World()};
  Explorer explorer;
  constexpr std::size_t kMost = 60000;
  while (!open.empty() && seen.size() < kMost) {
    const World world = std::move(open.front());
    open.pop_front();
    for (World& w : explorer.next(world)) {
      ASSERT_EQ(explorer.wrong, "") << w.name();
      if (seen.insert(w.name()).second) {
        open.push_back(std::move(w));
      }
    }
  }
  EXPECT_GT(seen.size(), 1000u);
}

}  // namespace
}  // namespace strata
