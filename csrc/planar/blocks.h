// CPU: planar displacements of one row, 64 elements (32 pairs) at a time. One Philox call serves two pairs: words 0, 1
// pair `lane`, words 2, 3 pair 16 + lane.
#pragma once
#include "../random/blocks.h"
#include "flight.h"

DK_NAMESPACE_BEGIN

template <class V>
struct PlanarBlocks {
  using F = typename V::F;
  RowStream stream;
  PlanarRow<Scalar> row;

  PlanarBlocks(const PlanarRow<Scalar>& planar, const RowStream& row_words) : stream(row_words), row(planar) {}

  // sink(lanes, i, k, v) for the elements [begin, end) of the row; begin is a multiple of 64. v only if kVelocity.
  template <bool kVelocity, class Sink>
  DK_INLINE void for_each(int64_t begin, int64_t end, Sink&& sink) const {
    const RowStream words = stream;  // copies that stay in registers: see telegraph/blocks.h
    const PlanarRow<V> parameters = splat_row<V>(row);
    for_each_block<V>(
        begin, end,
        [&](auto blocks, int64_t index, auto&& store)
            DK_INLINE_LAMBDA { block<kVelocity, blocks()>(words, parameters, index, store); },
        sink);
  }

 private:
  template <bool kVelocity, int kBlocks, class Store>
  static DK_INLINE void block(const RowStream& random, const PlanarRow<V>& parameters, int64_t index, Store&& store) {
    DK_UNROLL
    for (int lane = 0; lane < kCallsPerBlock; lane += V::kWidth) {
      typename V::U words[kBlocks][4];
      random.words<V, kBlocks>(uint64_t(index), lane, kMainWords, words);
      DK_UNROLL
      for (int half = 0; half < 2 * kBlocks; ++half) {
        const typename V::U* word = words[half / 2] + half % 2 * 2;
        F x, y, vx, vy, k[2], v[2];
        planar_draw<V>(parameters, word[0], word[1], x, y, vx, vy);
        V::interleave(x, y, k[0], k[1]);
        if (kVelocity) V::interleave(vx, vy, v[0], v[1]);
        DK_UNROLL
        for (int n = 0; n < 2; ++n) store(32 * half + 2 * lane + n * V::kWidth, k[n], kVelocity ? v[n] : k[n]);
      }
    }
  }
};

DK_NAMESPACE_END
