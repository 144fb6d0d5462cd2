// CPU: telegraph displacements of one row, 64 elements at a time.
#pragma once
#include "quantile.h"

DK_NAMESPACE_BEGIN

template <class V>
struct TelegraphBlocks {
  RowStream stream;
  TelegraphRow row;
  QuantileTable master;
  typename V::Table tables[7];
  alignas(64) float coefficients[kQuantileFast];

  TelegraphBlocks(double t, double a, double c, const RowStream& row_words)
      : stream(row_words), row(telegraph_row(t, a, c)), master(quantile_table()) {
    for (int first = 0; first < kQuantileFast; first += V::kWidth)
      V::store(coefficients + first, telegraph_coefficients<V>(row, master.fast, first));
    for (int k = 0; k < 7; ++k) tables[k] = V::table(coefficients + 16 * k);
  }

  // k, v: 64 floats each; v is left alone unless kVelocity.
  template <bool kVelocity>
  DK_INLINE void block(int64_t index, float* k, float* v) const {
    for (int lane = 0; lane < kCallsPerBlock; lane += V::kWidth) {
      typename V::U words[4], second[4] = {};
      stream.words<V>(uint64_t(index), lane, kMainWords, words);
      if (row.small) stream.words<V>(uint64_t(index), lane, kSecondWords, second);
      DK_UNROLL
      for (int j = 0; j < 4; ++j) {
        typename V::M atom, rare;
        typename V::F x = telegraph_common<V>(row, tables, words[j], second[j], atom, rare);
        x = with_sign_of<V>(x, words[j]);
        V::store(k + 16 * j + lane, x);
        if (kVelocity) V::store(v + 16 * j + lane, telegraph_velocity<V>(x, atom, row.velocity));
        if (DK_UNLIKELY(V::any(rare))) redo_rare<kVelocity>(index, lane, j, words[j], second[j], rare, k, v);
      }
    }
  }

 private:
  template <bool kVelocity>
  __attribute__((noinline)) void redo_rare(int64_t index, int first_lane, int j, typename V::U words,
                                           typename V::U second, typename V::M rare, float* k, float* v) const {
    uint32_t word_of[V::kWidth], second_of[V::kWidth];
    float is_rare[V::kWidth];
    memcpy(word_of, &words, sizeof words);
    memcpy(second_of, &second, sizeof second);
    V::store(is_rare, V::select(rare, V::splat(1.f), V::splat(0.f)));
    for (int i = 0; i < V::kWidth; ++i) {
      if (is_rare[i] == 0.f) continue;
      const int lane = first_lane + i, element = 16 * j + lane;
      uint32_t extra[4];
      stream.words<Scalar>(uint64_t(index), lane, kRareWords, extra);
      bool atom;
      const float magnitude = telegraph_rare(row, master, word_of[i], second_of[i], extra[j], atom);
      k[element] = with_sign_of<Scalar>(magnitude, word_of[i]);
      if (kVelocity) v[element] = telegraph_velocity<Scalar>(k[element], atom, row.velocity);
    }
  }
};

DK_NAMESPACE_END
