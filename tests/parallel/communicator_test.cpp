#include "core/communicator.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"
#include "parallel/mpi_communicator.h"
#include "parallel/self_communicator.h"
#include "tests/parallel/mpi_options.h"
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

/// Pieces of many sizes from one seed, equal on all ranks: some empty, some left out.
std::vector<Share> scattered_shares(int world, std::int64_t total) {
  std::vector<Share> shares;
  std::uint32_t state = 12345;
  for (std::int64_t at = 0; at < total;) {
    state = state * 1664525u + 1013904223u;
    const std::int64_t n = std::min<std::int64_t>(total - at, (state >> 16) % 900);
    if (state >> 28 != 0) {  // else a gap
      shares.push_back({at, at + n, static_cast<int>((state >> 8) % 16) % world});
    }
    at += n + 1;
  }
  return shares;
}

TEST_P(Contract, LongSumsFollowTheOrderInEveryElement) {
  GetParam().run([](Communicator& c) {
    for (const std::int64_t numel : {1, 17, 4099, 150'001}) {
      const SumOrder order = rank_order(c.size());
      const std::vector<Tensor> parts = parts_of(c, order, numel);
      c.all_reduce(parts, order);
      for (std::int64_t i = 0; i < numel; ++i) {
        ASSERT_EQ(parts[0].data<float>()[i], expected_sum(order, i)) << i << " of " << numel;
      }
    }
    const Tensor nothing = Tensor::zeros(DType::f32, {0});
    c.all_reduce(nothing);
  });
}

TEST_P(Contract, ScatteredSharesOfSeveralPartsAreSummedByTheirOwners) {
  GetParam().run([](Communicator& c) {
    constexpr std::int64_t kNumel = 60'013;
    const SumOrder order = sum_order(Summation::elastic, c.size(), 7);
    const std::vector<Share> shares = scattered_shares(c.size(), kNumel);
    const std::vector<Tensor> parts = parts_of(c, order, kNumel);
    c.reduce_scatter(parts, order, shares);
    for (const Share& share : shares) {
      for (std::int64_t i = share.begin; i < share.end && share.owner == c.rank(); ++i) {
        ASSERT_EQ(parts[0].data<float>()[i], expected_sum(order, i)) << i;
      }
    }
    // One owner of everything.
    const std::vector<Tensor> again = parts_of(c, order, kNumel);
    const Share all{0, kNumel, c.size() - 1};
    c.reduce_scatter(again, order, {&all, 1});
    for (std::int64_t i = 0; i < kNumel && c.rank() == all.owner; ++i) {
      ASSERT_EQ(again[0].data<float>()[i], expected_sum(order, i)) << i;
    }
  });
}

TEST_P(Contract, BytesOfOddRangesReachAllAndGapsStay) {
  GetParam().run([](Communicator& c) {
    constexpr std::int64_t kBytes = 700'001;
    const auto value = [](std::int64_t i, int owner) {
      return static_cast<std::byte>((i * 7 + i / 251 + owner * 31) & 0xff);
    };
    for (const std::int64_t bytes : {std::int64_t{3}, std::int64_t{5001}, kBytes}) {
      const std::vector<Share> shares = scattered_shares(c.size(), bytes);
      std::vector<std::byte> data(static_cast<std::size_t>(bytes)), expected(data.size());
      for (const Share& share : shares) {
        for (std::int64_t i = share.begin; i < share.end; ++i) {
          expected[static_cast<std::size_t>(i)] = value(i, share.owner);
          if (share.owner == c.rank()) {
            data[static_cast<std::size_t>(i)] = value(i, share.owner);
          }
        }
      }
      c.all_gather(data, shares);
      ASSERT_TRUE(data == expected) << bytes;
    }
  });
}

TEST_P(Contract, LongBroadcastsAndTablesArrive) {
  GetParam().run([](Communicator& c) {
    for (int root = 0; root < c.size(); ++root) {
      std::vector<std::int32_t> data(300'007);
      for (std::size_t i = 0; i < data.size() && c.rank() == root; ++i) {
        data[i] = static_cast<std::int32_t>(i) * 3 + root;
      }
      c.broadcast(std::as_writable_bytes(std::span(data)), root);
      for (std::size_t i = 0; i < data.size(); ++i) {
        ASSERT_EQ(data[i], static_cast<std::int32_t>(i) * 3 + root) << i;
      }
    }
    c.broadcast({}, 0);
    const std::vector<std::int16_t> mine(9001, static_cast<std::int16_t>(c.rank()));
    std::vector<std::int16_t> all(mine.size() * static_cast<std::size_t>(c.size()));
    c.gather_all(std::as_writable_bytes(std::span(all)), std::as_bytes(std::span(mine)));
    for (std::size_t i = 0; i < all.size(); ++i) {
      ASSERT_EQ(all[i], static_cast<std::int16_t>(i / mine.size())) << i;
    }
  });
}

/// A slow reader must not see what the next operation lays out.
TEST_P(Contract, ShortOperationsFollowEachOther) {
  GetParam().run([](Communicator& c) {
    for (int step = 0; step < 200; ++step) {
      Tensor x = row({static_cast<float>(step + c.rank())});
      c.all_reduce(x);
      ASSERT_EQ(x.data<float>()[0],
                static_cast<float>(step * c.size() + c.size() * (c.size() - 1) / 2));
      int word = c.rank() == step % c.size() ? step : -1;
      c.broadcast(std::as_writable_bytes(std::span(&word, 1)), step % c.size());
      ASSERT_EQ(word, step);
      if (step % 3 == 0) {
        c.barrier();
      }
    }
  });
}

TEST_P(Contract, LongMessagesDoNotWaitForTheirReader) {
  if (GetParam().size == 1) {
    return;
  }
  GetParam().run([](Communicator& c) {
    const int next = (c.rank() + 1) % c.size(), previous = (c.rank() + c.size() - 1) % c.size();
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{5}, std::size_t{100'003}}) {
      const std::vector<std::byte> mine(bytes, static_cast<std::byte>(c.rank() + 1));
      c.send(mine, next, 3);
      c.barrier();  // all have sent, nobody has read
      std::vector<std::byte> got(bytes);
      if (c.rank() != 0) {
        c.recv(got, previous, 3);
      }
      c.barrier();  // a sender waits elsewhere while its message is read
      if (c.rank() == 0) {
        c.recv(got, previous, 3);
      }
      c.barrier();
      ASSERT_TRUE(got == std::vector<std::byte>(bytes, static_cast<std::byte>(previous + 1)));
    }
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
/// This process is one rank of an MPI run; MPI is entered once and left when all tests are done.
class MpiRun : public testing::Environment {
 public:
  void TearDown() override { communicator_.reset(); }
  void run(const Body& body) {
    if (!communicator_) {
      communicator_ = make_mpi_communicator(test_options());
    }
    body(*communicator_);
  }

 private:
  std::unique_ptr<Communicator> communicator_;
};

std::vector<World> worlds() {
  if (!under_mpi_launcher()) {
    return {{"self", 1, run_self}, local(2), local(3)};
  }
  static auto* const mpi = static_cast<MpiRun*>(testing::AddGlobalTestEnvironment(new MpiRun));
  return {{"mpi", std::stoi(std::getenv("OMPI_COMM_WORLD_SIZE")), [](const Body& body) {
             mpi->run(body);
           }}};
}
INSTANTIATE_TEST_SUITE_P(Worlds, Contract, testing::ValuesIn(worlds()), [](const auto& world) {
  return world.param.name;
});

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
