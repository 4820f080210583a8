#include "tests/support/fake_machine.h"

#include <cmath>
#include <cstring>

#include "core/error.h"

namespace strata::tests {
namespace {

using enum PackClass;

std::span<float> as_floats(std::span<std::byte> bytes) {
  return {reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float)};
}

std::int64_t numel(int block) {
  return block == 0 ? kFakeV * kFakeC : kFakeC;
}

}  // namespace

PackSizes fake_sizes(int begin, int end, std::int64_t tokens) {
  PackSizes sizes;
  for (int b = 0; b < 2; ++b) {
    for (const PackClass cls : {weights, weights_next, state, state_next, grads}) {
      sizes[{cls, b}] = numel(b) * 4;
    }
  }
  sizes[{borrowed_grads, 1}] = numel(0) * 4;
  sizes[{workspace}] = sizes[{workspace, 1}] = 4;
  for (int mb = begin; mb < end; ++mb) {
    sizes[{boundary, 1, mb}] = sizes[{boundary_grad, 1, mb}] = tokens * kFakeC * 4;
    sizes[{grads, 0, mb}] = numel(0) * 4;
    sizes[{grads, 1, mb}] = numel(1) * 4;
    sizes[{borrowed_grads, 1, mb}] = numel(0) * 4;
    sizes[{saved, 0, mb}] = sizes[{saved, 1, mb}] = tokens * 4;
  }
  return sizes;
}

void FakeStore::create_replica(const Replica& replica) {
  const PackKey key = replica.key;
  STRATA_ASSERT(!packs_.contains(key) && sizes_.contains(key));
  packs_[key].assign(static_cast<std::size_t>(sizes_[key]), std::byte{0xff});
}

void FakeStore::destroy_replica(const Replica& replica) {
  STRATA_ASSERT(packs_.contains(replica.key) && leases_[replica.key] == 0);
  packs_.erase(replica.key);
}

Lease FakeStore::lease(const Replica& replica, Access access) {
  STRATA_ASSERT(packs_.contains(replica.key));
  ++leases_[replica.key];
  return {*this, replica, access, packs_[replica.key]};
}

void FakeStore::commit(int block, Tier) {
  for (const auto& [current, next] : {std::pair{weights, weights_next}, {state, state_next}}) {
    packs_[{current, block}].swap(packs_[{next, block}]);
    destroy({next, block});
  }
}

void FakeStore::discard(int block, Tier) {
  ++discards_;
  destroy({weights_next, block});
  destroy({state_next, block});
}

std::span<float> FakeStore::floats(PackKey key) {
  return as_floats(packs_.at(key));
}

void FakeRunner::contribute(float& to, float value) const {
  to += contributions_ == Contributions::rounded ? std::round(value * 4096.f) / 4096.f : value;
}

void FakeRunner::forward(const Instruction& i, const Held& packs, StepScalars& scalars) {
  if (i.block == 1) {
    return loss(i, packs, scalars);
  }
  const MicroBatch& batch =
      scalars.inputs.batches[static_cast<std::size_t>(i.micro_batch - first_)];
  const auto table = as_floats(packs[{weights, 0}]);
  const auto out = as_floats(packs[{boundary, 1, i.micro_batch}]);
  recompute(i, packs, scalars);
  for (std::int64_t t = 0; t < batch.tokens.numel(); ++t) {
    const std::int64_t row = batch.tokens.data<std::int32_t>()[t];
    std::memcpy(&out[static_cast<std::size_t>(t * kFakeC)],
                &table[static_cast<std::size_t>(row * kFakeC)],
                kFakeC * 4);
  }
}

/// The activation slot of the embedding: the token ids it looked up, as floats.
void FakeRunner::recompute(const Instruction& i, const Held& packs, StepScalars& scalars) {
  const MicroBatch& batch =
      scalars.inputs.batches[static_cast<std::size_t>(i.micro_batch - first_)];
  const auto slot = as_floats(packs[{saved, 0, i.micro_batch}]);
  for (std::size_t t = 0; t < slot.size(); ++t) {
    slot[t] = static_cast<float>(batch.tokens.data<std::int32_t>()[t]);
  }
}

void FakeRunner::backward(const Instruction& i, const Held& packs, StepScalars&) {
  const auto slot = as_floats(packs[{saved, 0, i.micro_batch}]);
  const auto dy = as_floats(packs[{boundary_grad, 1, i.micro_batch}]);
  const auto grad = as_floats(packs[{grads, 0, i.sum}]);
  if (i.accumulate == Accumulate::overwrite) {
    std::fill(grad.begin(), grad.end(), 0.f);
  }
  for (std::size_t t = 0; t < slot.size(); ++t) {
    const auto row = static_cast<std::size_t>(slot[t]);
    for (std::size_t c = 0; c < kFakeC; ++c) {
      contribute(grad[row * kFakeC + c], dy[t * kFakeC + c]);
    }
  }
}

void FakeRunner::loss(const Instruction& i, const Held& packs, StepScalars& scalars) const {
  const auto k = static_cast<std::size_t>(i.micro_batch - first_);
  const MicroBatch& batch = scalars.inputs.batches[k];
  const auto w = as_floats(packs[{weights, 1}]);
  const auto table = as_floats(packs[{weights, 0}]);
  const auto x = as_floats(packs[{boundary, 1, i.micro_batch}]);
  const auto dx = as_floats(packs[{boundary_grad, 1, i.micro_batch}]);
  const auto dw = as_floats(packs[{grads, 1, i.sum}]);
  const auto dtable = as_floats(packs[{borrowed_grads, 1, i.sum}]);
  if (i.accumulate == Accumulate::overwrite) {
    std::fill(dw.begin(), dw.end(), 0.f);
    std::fill(dtable.begin(), dtable.end(), 0.f);
  }
  const float scale = 1.f / static_cast<float>(scalars.inputs.loss_tokens);
  for (std::size_t t = 0; t < static_cast<std::size_t>(batch.tokens.numel()); ++t) {
    const auto row = static_cast<std::size_t>(batch.targets.data<std::int32_t>()[t]) * kFakeC;
    float y = 0.f;
    for (std::size_t c = 0; c < kFakeC; ++c) {
      y += x[t * kFakeC + c] * w[c] * table[row + c];
    }
    scalars.loss_sums[k] += 0.5 * (y - 1.f) * (y - 1.f);
    const float dy = (y - 1.f) * scale;
    for (std::size_t c = 0; c < kFakeC; ++c) {
      dx[t * kFakeC + c] = dy * w[c] * table[row + c];
      contribute(dw[c], dy * x[t * kFakeC + c] * table[row + c]);
      contribute(dtable[row + c], dy * x[t * kFakeC + c] * w[c]);
    }
  }
}

std::vector<void*> FakeCollectives::exchange(void* mine) {
  world_.posts[static_cast<std::size_t>(rank_)] = mine;
  world_.barrier.arrive_and_wait();
  return world_.posts;
}

void FakeCollectives::merge(const Instruction& i, const Held& packs) {
  for (const PackClass cls : {grads, borrowed_grads}) {
    if (cls == grads || i.block == 1) {
      const auto to = as_floats(packs[{cls, i.block, i.sum}]);
      const auto from = as_floats(packs[{cls, i.block, i.from}]);
      for (std::size_t e = 0; e < to.size(); ++e) {
        to[e] += from[e];
      }
    }
  }
}

void FakeCollectives::sum_over_ranks(PackClass cls, int block, const Held& packs) {
  std::vector<float*> mine;
  for (const int sum : sums_) {
    mine.push_back(as_floats(packs[{cls, block, sum}]).data());
  }
  std::vector<float*> all;
  for (void* post : exchange(&mine)) {
    const auto& theirs = *static_cast<std::vector<float*>*>(post);
    all.insert(all.end(), theirs.begin(), theirs.end());
  }
  const auto result = as_floats(packs[{cls, block}]);
  std::vector<float> sums;
  for (std::size_t e = 0; e < result.size(); ++e) {
    std::vector<float> stack;
    for (const int step : order_.steps) {
      if (step == SumOrder::kAdd) {
        const float right = stack.back();
        stack.pop_back();
        stack.back() += right;
      } else {
        stack.push_back(all[static_cast<std::size_t>(step)][e]);
      }
    }
    sums.push_back(stack.back());
  }
  world_.barrier.arrive_and_wait();
  std::copy(sums.begin(), sums.end(), result.begin());
}

void FakeCollectives::reduce(const Instruction& i, const Held& packs) {
  const auto add_borrowed = [&] {
    if (i.block == 0) {
      const auto grad = as_floats(packs[{grads, 0}]);
      const auto borrowed = as_floats(packs[{borrowed_grads, 1}]);
      for (std::size_t e = 0; e < grad.size(); ++e) {
        grad[e] += borrowed[e];
      }
    }
  };
  if (!elastic_) {
    add_borrowed();
    sum_over_ranks(grads, i.block, packs);
    return;
  }
  sum_over_ranks(grads, i.block, packs);
  if (i.block == 1) {
    sum_over_ranks(borrowed_grads, 1, packs);
  }
  add_borrowed();
}

void FakeCollectives::decide_block(int block, StepScalars& scalars) {
  double square = 0;
  for (const double partial : scalars.partials[static_cast<std::size_t>(block)]) {
    square += partial;
  }
  bool bad = !std::isfinite(square);
  for (void* post : exchange(&scalars)) {
    bad = bad || static_cast<StepScalars*>(post)->non_finite;
  }
  world_.barrier.arrive_and_wait();
  scalars.outcome = bad ? Outcome::skip : Outcome::clip_is_one;
}

void FakeCollectives::decide(StepScalars& scalars) {
  double loss = 0, square = 0;
  bool bad = false;
  for (void* post : exchange(&scalars)) {
    const auto& theirs = *static_cast<StepScalars*>(post);
    for (const double sum : theirs.loss_sums) {
      loss += sum;
    }
    bad = bad || theirs.non_finite;
  }
  for (const auto& block : scalars.partials) {
    for (const double partial : block) {
      square += partial;
    }
  }
  world_.barrier.arrive_and_wait();
  scalars.loss = loss / static_cast<double>(scalars.inputs.loss_tokens);
  scalars.grad_norm = std::sqrt(square);
  const double clip = scalars.inputs.clip / scalars.grad_norm;
  scalars.outcome = bad || !std::isfinite(square) ? Outcome::skip
                    : clip < 1.0                  ? Outcome::clip_below_one
                                                  : Outcome::clip_is_one;
  if (scalars.outcome == Outcome::clip_below_one) {
    scalars.inputs.info.grad_scale = static_cast<float>(clip);
  }
}

void FakeCollectives::fold_stats(StepScalars& scalars) {
  std::vector<double> sum(scalars.stats.size(), 0.0);
  for (void* post : exchange(scalars.stats.data())) {
    for (std::size_t e = 0; e < sum.size(); ++e) {
      sum[e] += static_cast<double*>(post)[e];
    }
  }
  world_.barrier.arrive_and_wait();
  scalars.stats = sum;
}

void FakeCollectives::publish(const Instruction& i, const Held& packs) {
  const auto w = as_floats(packs[{weights, i.block}]);
  const auto posts = exchange(w.data());
  std::vector<float> all(w.begin(), w.end());
  for (std::size_t e = 0; e < all.size(); ++e) {
    const auto owner = e / kFakeChunk % static_cast<std::size_t>(world_.size);
    all[e] = static_cast<float*>(posts[owner])[e];
  }
  world_.barrier.arrive_and_wait();
  std::copy(all.begin(), all.end(), w.begin());
}

void FakeUpdater::norm(const Instruction& i, const Held& packs, StepScalars& scalars) {
  auto& partials = scalars.partials[static_cast<std::size_t>(i.block)];
  partials.clear();
  const auto grad = as_floats(packs[{grads, i.block}]);
  for (std::size_t e = 0; e < grad.size(); ++e) {
    if (e % kFakeChunk == 0) {
      partials.push_back(0.0);
    }
    partials.back() += static_cast<double>(grad[e]) * grad[e];
    scalars.non_finite = scalars.non_finite || !std::isfinite(grad[e]);
  }
}

void FakeUpdater::stats(const Instruction& i, const Held& packs, StepScalars& scalars) {
  if (packs.contains({weights_next, i.block})) {
    for (const auto& [current, next] : {std::pair{weights, weights_next}, {state, state_next}}) {
      const auto from = packs[{current, i.block}];
      std::copy(from.begin(), from.end(), packs[{next, i.block}].begin());
    }
  }
  const auto grad = as_floats(packs[{grads, i.block}]);
  scalars.stats.assign(grad.size() / kFakeChunk, 0.0);
  for (std::size_t e = 0; e < grad.size(); ++e) {
    if (mine(static_cast<std::int64_t>(e / kFakeChunk))) {
      scalars.stats[e / kFakeChunk] += std::abs(grad[e]);
    }
  }
}

void FakeUpdater::update(const Instruction& i, const Held& packs, StepScalars& scalars) {
  const bool next = packs.contains({weights_next, i.block});
  const auto w = as_floats(packs[{next ? weights_next : weights, i.block}]);
  const auto m = as_floats(packs[{next ? state_next : state, i.block}]);
  const auto grad = as_floats(packs[{grads, i.block}]);
  double total = 0;
  for (const double slot : scalars.stats) {
    total += slot;
  }
  const auto& info = scalars.inputs.info;
  const float rate = static_cast<float>(info.lr / (1.0 + total));
  for (std::size_t e = 0; e < w.size(); ++e) {
    if (mine(static_cast<std::int64_t>(e / kFakeChunk))) {
      m[e] = 0.9f * m[e] + info.grad_scale * grad[e];
      w[e] -= rate * m[e];
    }
  }
}

}  // namespace strata::tests
