#include "core/communicator.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"
#include "parallel/self_communicator.h"
#include "tests/support/local_ranks.h"

namespace strata::parallel {
namespace {

using Body = std::function<void(Communicator&)>;

/// Every way to have ranks: the contract of core/communicator.h is the same for all.
struct World {
  std::string name;
  int size;
  std::function<void(const Body&)> run;
};

class Contract : public testing::TestWithParam<World> {};

Tensor row(std::initializer_list<float> values) {
  Tensor t = Tensor::zeros(DType::f32, {static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), t.data<float>());
  return t;
}

TEST_P(Contract, AllReduceFoldsRanksInOrder) {
  GetParam().run([](Communicator& c) {
    // 1 + 2^-24 + 2^-24 is 1 from the left and 1 + 2^-23 from the right.
    Tensor x = row({c.rank() == 0 ? 1.f : 0x1p-24f, static_cast<float>(c.rank() + 1)});
    c.all_reduce(x);
    EXPECT_EQ(x.data<float>()[0], 1.f);
    EXPECT_EQ(x.data<float>()[1], static_cast<float>(c.size() * (c.size() + 1) / 2));
  });
}

/// Floats at which order shows: powers of two far apart, different for each contribution.
float contribution(int number, std::int64_t element) {
  return static_cast<float>(std::ldexp(1.0 + 0.37 * number, static_cast<int>(element * 7 % 30))) +
         static_cast<float>(std::ldexp(1.0, (number * 11 + static_cast<int>(element)) % 28));
}

float expected_sum(const SumOrder& order, std::int64_t element) {
  std::vector<float> stack;
  for (const int step : order.steps) {
    if (step != SumOrder::kAdd) {
      stack.push_back(contribution(step, element));
      continue;
    }
    const float right = stack.back();
    stack.pop_back();
    stack.back() += right;
  }
  return stack.back();
}

/// This rank's parts of `order`, each of `numel` values.
std::vector<Tensor> parts_of(const Communicator& c, const SumOrder& order, std::int64_t numel) {
  int number = 0;
  for (int r = 0; r < c.rank(); ++r) {
    number += order.parts[static_cast<std::size_t>(r)];
  }
  std::vector<Tensor> parts;
  for (int k = 0; k < order.parts[static_cast<std::size_t>(c.rank())]; ++k, ++number) {
    parts.push_back(Tensor::zeros(DType::f32, {numel}));
    for (std::int64_t i = 0; i < numel; ++i) {
      parts.back().data<float>()[i] = contribution(number, i);
    }
  }
  return parts;
}

TEST_P(Contract, SumsFollowTheTreeWhateverTheRanksHold) {
  GetParam().run([](Communicator& c) {
    for (const int micro_batches : {c.size(), c.size() + 1, 7, 11}) {
      const SumOrder order = sum_order(Summation::elastic, c.size(), micro_batches);
      const std::vector<Tensor> parts = parts_of(c, order, 1500);
      c.all_reduce(parts, order);
      for (std::int64_t i = 0; i < 1500; ++i) {
        ASSERT_EQ(parts[0].data<float>()[i], expected_sum(order, i)) << i;
      }
    }
  });
}

TEST_P(Contract, UnevenSharesScatterAndGather) {
  GetParam().run([](Communicator& c) {
    // Shares of 3, 0, 3, 0 ... elements, then a second round of one each, with a gap between.
    std::vector<Share> shares;
    std::int64_t total = 0;
    for (int r = 0; r < c.size(); ++r) {
      const std::int64_t numel = r % 2 == 0 ? 3 : 0;
      shares.push_back({total, total + numel, r});
      total += numel;
    }
    const std::int64_t gap = total++;
    for (int r = 0; r < c.size(); ++r, ++total) {
      shares.push_back({total, total + 1, r});
    }
    Tensor x = Tensor::zeros(DType::f32, {total});
    for (std::int64_t i = 0; i < total; ++i) {
      x.data<float>()[i] = static_cast<float>(i);
    }
    c.reduce_scatter(x, shares);
    x.data<float>()[gap] = -1.f;
    for (Share& share : shares) {
      share.begin *= 4;
      share.end *= 4;
    }
    c.all_gather({x.bytes(), static_cast<std::size_t>(total) * 4}, shares);
    for (std::int64_t i = 0; i < total; ++i) {
      EXPECT_EQ(x.data<float>()[i], i == gap ? -1.f : static_cast<float>(c.size() * i));
    }
  });
}

TEST_P(Contract, GatherAllIsInRankOrderAndBroadcastReachesAll) {
  GetParam().run([](Communicator& c) {
    const int mine = 10 + c.rank();
    std::vector<int> all(static_cast<std::size_t>(c.size()));
    c.gather_all(std::as_writable_bytes(std::span(all)), std::as_bytes(std::span(&mine, 1)));
    for (int r = 0; r < c.size(); ++r) {
      EXPECT_EQ(all[static_cast<std::size_t>(r)], 10 + r);
    }
    int word = c.rank();
    c.broadcast(std::as_writable_bytes(std::span(&word, 1)), c.size() - 1);
    EXPECT_EQ(word, c.size() - 1);
    c.barrier();
  });
}

TEST_P(Contract, MessagesArriveByTagInOrder) {
  if (GetParam().size == 1) {
    SelfCommunicator self;
    std::byte byte{};
    EXPECT_THROW(self.send({&byte, 1}, 1, 0), Error);
    EXPECT_THROW(self.recv({&byte, 1}, 1, 0), Error);
    return;
  }
  GetParam().run([](Communicator& c) {
    const int next = (c.rank() + 1) % c.size(), previous = (c.rank() + c.size() - 1) % c.size();
    for (const int word : {1, 2}) {
      c.send(std::as_bytes(std::span(&word, 1)), next, 7);
    }
    const int other = 3;
    c.send(std::as_bytes(std::span(&other, 1)), next, 8);
    const auto take = [&](int tag) {
      int word = 0;
      c.recv(std::as_writable_bytes(std::span(&word, 1)), previous, tag);
      return word;
    };
    EXPECT_EQ(take(8), 3);
    EXPECT_EQ(take(7), 1);
    EXPECT_EQ(take(7), 2);
  });
}

void run_self(const Body& body) {
  SelfCommunicator self;
  body(self);
}
World local(int size) {
  return {"local" + std::to_string(size), size, [size](const Body& body) {
            tests::LocalRanks(size).run(body);
          }};
}
INSTANTIATE_TEST_SUITE_P(Worlds,
                         Contract,
                         testing::Values(World{"self", 1, run_self}, local(2), local(3)),
                         [](const auto& world) { return world.param.name; });

TEST(LocalRanks, LostRankReleasesItsPeers) {
  try {
    tests::LocalRanks(3).run([](Communicator& c) {
      if (c.rank() == 1) {
        throw Error(Errc::numerics, "first");
      }
      c.barrier();
    });
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::numerics);
  }
  EXPECT_THROW(tests::LocalRanks(2).run([](Communicator& c) {
    if (c.rank() == 0) {
      c.barrier();
    }
  }),
               Error);
}

}  // namespace
}  // namespace strata::parallel
