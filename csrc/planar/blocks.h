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
    for_each_block<V, 2>(
        begin, end,
        [&](auto blocks, int64_t index, auto&& store) DK_INLINE_LAMBDA {
          draw<blocks()>(words, index, [&](int place, const PlanarWords<V>& drawn) DK_INLINE_LAMBDA {
            F k[2], v[2];
            pairs<kVelocity>(parameters, drawn, k, v);
            DK_UNROLL
            for (int n = 0; n < 2; ++n) store(place + n * V::kWidth, k[n], kVelocity ? v[n] : k[n]);
          });
        },
        sink);
  }

  // The same with a second displacement from the same words, that of the row at another time: sink(lanes, i, k, v,
  // k_to).
  template <class Sink>
  DK_INLINE void for_each(int64_t begin, int64_t end, const PlanarBlocks& to, Sink&& sink) const {
    const RowStream words = stream;
    const PlanarRow<V> parameters = splat_row<V>(row), parameters_to = splat_row<V>(to.row);
    for_each_block<V, 3>(
        begin, end,
        [&](auto blocks, int64_t index, auto&& store) DK_INLINE_LAMBDA {
          draw<blocks()>(words, index, [&](int place, const PlanarWords<V>& drawn) DK_INLINE_LAMBDA {
            F k[2], v[2], k_to[2], v_to[2];
            pairs<true>(parameters, drawn, k, v);
            pairs<false>(parameters_to, drawn, k_to, v_to);
            DK_UNROLL
            for (int n = 0; n < 2; ++n) store(place + n * V::kWidth, k[n], v[n], k_to[n]);
          });
        },
        sink);
  }

 private:
  // each(place, words) for every vector of pairs of kBlocks blocks.
  template <int kBlocks, class Each>
  static DK_INLINE void draw(const RowStream& random, int64_t index, Each&& each) {
    for_each_lane<V>([&](int lane) DK_INLINE_LAMBDA {
      typename V::U words[kBlocks][4];
      random.words<V, kBlocks>(uint64_t(index), lane, kMainWords, words);
      DK_UNROLL
      for (int half = 0; half < 2 * kBlocks; ++half) {
        const typename V::U* word = words[half / 2] + half % 2 * 2;
        each(32 * half + 2 * lane, planar_words<V>(word[0], word[1]));
      }
    });
  }

  // As elements, in two vectors.
  template <bool kVelocity>
  static DK_INLINE void pairs(const PlanarRow<V>& parameters, const PlanarWords<V>& words, F k[2], F v[2]) {
    F x, y, vx, vy;
    planar_draw<V>(parameters, words, x, y, vx, vy);
    V::interleave(x, y, k[0], k[1]);
    if (kVelocity) V::interleave(vx, vy, v[0], v[1]);
  }
};

DK_NAMESPACE_END
