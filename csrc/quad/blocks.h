// CPU: quad displacements of one row, 64 elements (16 groups of four) at a time. One Philox call serves one group.
#pragma once
#include "../lanes/loops.h"
#include "../random/blocks.h"
#include "flight.h"

DK_NAMESPACE_BEGIN

template <class V>
struct QuadBlocks {
  using F = typename V::F;
  RowStream stream;
  QuadRow<Scalar> row;

  QuadBlocks(const QuadRow<Scalar>& quad, const RowStream& row_words) : stream(row_words), row(quad) {}

  // sink(lanes, i, k, v) for the elements [begin, end) of the row; begin is a multiple of 64. v only if kVelocity.
  template <bool kVelocity, class Sink>
  DK_INLINE void for_each(int64_t begin, int64_t end, Sink&& sink) const {
    const RowStream words = stream;  // copies that stay in registers: see telegraph/blocks.h
    const QuadRow<V> parameters = splat_row<V>(row);
    for_each_block<V>(
        begin, end,
        [&](auto blocks, int64_t index, auto&& store)
            DK_INLINE_LAMBDA { block<kVelocity, blocks()>(words, parameters, index, store); },
        sink);
  }

 private:
  template <bool kVelocity, int kBlocks, class Store>
  static DK_INLINE void block(const RowStream& random, const QuadRow<V>& parameters, int64_t index, Store&& store) {
    DK_UNROLL
    for (int lane = 0; lane < kCallsPerBlock; lane += V::kWidth) {
      typename V::U words[kBlocks][4];
      random.words<V, kBlocks>(uint64_t(index), lane, kMainWords, words);
      DK_UNROLL
      for (int part = 0; part < kBlocks; ++part) {
        F x[4], moving[4], k[4], v[4];
        quad_draw<V>(parameters, words[part], x, moving);
        interleave_fours<V>(x, k);
        if (kVelocity) interleave_fours<V>(moving, v);
        DK_UNROLL
        for (int n = 0; n < 4; ++n) store(kBlock * part + 4 * lane + n * V::kWidth, k[n], kVelocity ? v[n] : k[n]);
      }
    }
  }
};

DK_NAMESPACE_END
