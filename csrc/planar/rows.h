// CPU: short planar rows side by side, one on each lane.
#pragma once
#include "flight.h"

DK_NAMESPACE_BEGIN

// As telegraph_short_rows; one Philox call a pair, of which two words are used.
template <class V, bool kVelocity>
inline void planar_short_rows(const double* t, double a, double c, const PhiloxKey& key, int64_t row, int count,
                              int width, float* k, float* v) {
  constexpr int kWidth = V::kWidth;
  for (int begin = 0; begin < count; begin += kWidth) {
    typename V::D times[V::kDoubles];
    for (int i = 0; i < V::kDoubles; ++i) times[i] = V::double_load(t + begin + i * (kWidth / V::kDoubles));
    const PlanarRow<V> lanes = planar_row<V>(times, a, c);
    for (int pair = 0; pair < width / 2; ++pair) {
      typename V::U words[4];
      philox_rows<V>(uint32_t(pair), kMainWords, uint64_t(row + begin), key, words);
      typename V::F x[2], velocity[2];
      planar_draw<V>(lanes, planar_words<V>(words[0], words[1]), x[0], x[1], velocity[0], velocity[1]);
      for (int i = 0; i < 2; ++i) {
        alignas(64) float drawn[kWidth], moving[kWidth];
        V::store(drawn, x[i]);
        for (int n = 0; n < kWidth; ++n) k[(begin + n) * width + 2 * pair + i] = drawn[n];
        if (!kVelocity) continue;
        V::store(moving, velocity[i]);
        for (int n = 0; n < kWidth; ++n) v[(begin + n) * width + 2 * pair + i] = moving[n];
      }
    }
  }
}

DK_NAMESPACE_END
