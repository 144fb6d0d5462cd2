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
    for_each_block<V, 2>(
        begin, end,
        [&](auto blocks, int64_t index, auto&& store) DK_INLINE_LAMBDA {
          draw<blocks()>(words, index, [&](int place, const QuadWords<V>& drawn) DK_INLINE_LAMBDA {
            F k[4], v[4];
            fours<kVelocity>(parameters, drawn, k, v);
            DK_UNROLL
            for (int n = 0; n < 4; ++n) store(place + n * V::kWidth, k[n], kVelocity ? v[n] : k[n]);
          });
        },
        sink);
  }

  // The same with a second displacement from the same words, that of the row at another time: sink(lanes, i, k, v,
  // k_to).
  template <class Sink>
  DK_INLINE void for_each(int64_t begin, int64_t end, const QuadBlocks& to, Sink&& sink) const {
    const RowStream words = stream;
    const QuadRow<V> parameters = splat_row<V>(row), parameters_to = splat_row<V>(to.row);
    for_each_block<V, 3>(
        begin, end,
        [&](auto blocks, int64_t index, auto&& store) DK_INLINE_LAMBDA {
          draw<blocks()>(words, index, [&](int place, const QuadWords<V>& drawn) DK_INLINE_LAMBDA {
            F k[4], v[4], k_to[4], v_to[4];
            fours<true>(parameters, drawn, k, v);
            fours<false>(parameters_to, drawn, k_to, v_to);
            DK_UNROLL
            for (int n = 0; n < 4; ++n) store(place + n * V::kWidth, k[n], v[n], k_to[n]);
          });
        },
        sink);
  }

 private:
  // each(place, words) for every vector of groups of kBlocks blocks.
  template <int kBlocks, class Each>
  static DK_INLINE void draw(const RowStream& random, int64_t index, Each&& each) {
    for_each_lane<V>([&](int lane) DK_INLINE_LAMBDA {
      typename V::U words[kBlocks][4];
      random.words<V, kBlocks>(uint64_t(index), lane, kMainWords, words);
      DK_UNROLL
      for (int n = 0; n < kBlocks; ++n) each(int(kBlock) * n + 4 * lane, quad_words<V>(words[n]));
    });
  }

  // As elements, in four vectors.
  template <bool kVelocity>
  static DK_INLINE void fours(const QuadRow<V>& parameters, const QuadWords<V>& words, F k[4], F v[4]) {
    F x[4], moving[4];
    quad_draw<V>(parameters, words, x, moving);
    interleave_fours<V>(x, k);
    if (kVelocity) interleave_fours<V>(moving, v);
  }
};

DK_NAMESPACE_END
