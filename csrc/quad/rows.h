// CPU: short quad rows side by side, one on each lane.
#pragma once
#include "flight.h"

DK_NAMESPACE_BEGIN

// As planar_short_rows; one Philox call a group of four, of which every word is used.
template <class V, bool kVelocity>
inline void quad_short_rows(const double* t, double a, double c, const PhiloxKey& key, int64_t row, int count,
                            int width, float* k, float* v) {
  constexpr int kWidth = V::kWidth;
  for (int begin = 0; begin < count; begin += kWidth) {
    typename V::D times[V::kDoubles];
    for (int i = 0; i < V::kDoubles; ++i) times[i] = V::double_load(t + begin + i * (kWidth / V::kDoubles));
    const QuadRow<V> lanes = quad_row<V>(times, a, c);
    for (int group = 0; group < width / 4; ++group) {
      typename V::U words[4];
      philox_rows<V>(uint32_t(group), kMainWords, uint64_t(row + begin), key, words);
      typename V::F x[4], velocity[4];
      quad_draw<V>(lanes, quad_words<V>(words), x, velocity);
      for (int i = 0; i < 4; ++i) {
        alignas(64) float drawn[kWidth], moving[kWidth];
        V::store(drawn, x[i]);
        for (int n = 0; n < kWidth; ++n) k[(begin + n) * width + 4 * group + i] = drawn[n];
        if (!kVelocity) continue;
        V::store(moving, velocity[i]);
        for (int n = 0; n < kWidth; ++n) v[(begin + n) * width + 4 * group + i] = moving[n];
      }
    }
  }
}

DK_NAMESPACE_END
