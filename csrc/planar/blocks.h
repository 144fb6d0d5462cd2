// CPU: planar displacements of one row, 64 elements (32 pairs) at a time. One Philox call serves two pairs: words 0, 1
// pair `lane`, words 2, 3 pair 16 + lane.
#pragma once
#include "../ops/chunks.h"
#include "flight.h"

DK_NAMESPACE_BEGIN

template <class V>
struct PlanarBlocks {
  RowStream stream;
  PlanarRow row;

  PlanarBlocks(double t, double a, double c, const RowStream& row_words)
      : stream(row_words), row(planar_row(t, a, c)) {}

  // k, v: 64 floats each; v is left alone unless kVelocity.
  template <bool kVelocity>
  DK_INLINE void block(int64_t index, float* k, float* v) const {
    for (int lane = 0; lane < kCallsPerBlock; lane += V::kWidth) {
      typename V::U words[4];
      stream.words<V>(uint64_t(index), lane, kMainWords, words);
      DK_UNROLL
      for (int half = 0; half < 2; ++half) {
        typename V::F x, y, vx, vy;
        planar_draw<V>(row, words[2 * half], words[2 * half + 1], x, y, vx, vy);
        store_pairs<V>(k + 32 * half + 2 * lane, x, y);
        if (kVelocity) store_pairs<V>(v + 32 * half + 2 * lane, vx, vy);
      }
    }
  }
};

DK_NAMESPACE_END
