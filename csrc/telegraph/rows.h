// CPU: telegraph rows side by side, one on each lane: their parameters, and where rows are short their draws too.
#pragma once
#include "quantile.h"

DK_NAMESPACE_BEGIN

template <class V>
DK_INLINE TelegraphRow<V> telegraph_lanes(const double* t, double a, double c) {
  typename V::D times[V::kDoubles];
  for (int i = 0; i < V::kDoubles; ++i) times[i] = V::double_load(t + i * (V::kWidth / V::kDoubles));
  return telegraph_row<V>(times, a, c);
}

// rows[n] for the times t[n], n < count; both arrays have room for whole vectors.
template <class V>
inline void telegraph_rows(const double* t, double a, double c, int count, TelegraphRow<Scalar>* rows) {
  constexpr int kWidth = V::kWidth;
  double p_atom[kWidth];
  float radius[kWidth], w_scale[kWidth], w_shift[kWidth], weight[4][kWidth];
  uint32_t atom_words[kWidth], rare_words[kWidth], node[kWidth];
  for (int begin = 0; begin < count; begin += kWidth) {
    const TelegraphRow<V> lanes = telegraph_lanes<V>(t + begin, a, c);
    for (int i = 0; i < V::kDoubles; ++i) V::double_store(p_atom + i * (kWidth / V::kDoubles), lanes.p_atom[i]);
    V::store(radius, lanes.radius), V::store(w_scale, lanes.w_scale), V::store(w_shift, lanes.w_shift);
    for (int j = 0; j < 4; ++j) V::store(weight[j], lanes.weight[j]);
    memcpy(atom_words, &lanes.atom_words, sizeof atom_words);
    memcpy(rare_words, &lanes.rare_words, sizeof rare_words);
    memcpy(node, &lanes.node, sizeof node);
    for (int n = 0; n < kWidth; ++n)
      rows[begin + n] = {
          radius[n],  {p_atom[n]}, atom_words[n], rare_words[n],
          w_scale[n], w_shift[n],  node[n],       {weight[0][n], weight[1][n], weight[2][n], weight[3][n]}};
  }
}

// Coefficient k of t^k for the octave that each lane's row needs: eight numbers of one row are neighbours in memory,
// hence blended together and turned into columns. Not inline: the compiler would take the offsets and weights out of
// vector registers one by one, instead of reading them from memory.
template <class V>
__attribute__((noinline)) void coefficients_of_lanes(const float* by_octave, const uint32_t* offset,
                                                     const float (*weight)[V::kWidth], typename V::F coefficients[8]) {
  using E = typename V::Eight;
  alignas(64) float of_row[V::kWidth][8];
  DK_UNROLL
  for (int n = 0; n < V::kWidth; ++n) {
    const typename E::F of_node[4] = {E::splat(weight[0][n]), E::splat(weight[1][n]), E::splat(weight[2][n]),
                                      E::splat(weight[3][n])};
    for (int first = 0; first < 8; first += E::kWidth)
      E::store(of_row[n] + first, between_nodes<E>(of_node, by_octave + offset[n] + first, kQuantileByOctave));
  }
  V::columns(of_row, coefficients);
}

// Element i of a vector of rows; v receives whether the particle never turned, if kVelocity.
template <class V, bool kVelocity>
DK_INLINE void telegraph_short_vector(const TelegraphRow<V>& lanes, const float (*weight)[V::kWidth],
                                      const QuantileTable& table, const double* t, double a, double c,
                                      const PhiloxKey& key, int64_t row, int i, int width, float* k, float* v) {
  using F = typename V::F;
  using U = typename V::U;
  constexpr int kWidth = V::kWidth;
  U words[4];
  philox_rows<V>(uint32_t(i), kMainWords, uint64_t(row), key, words);
  typename V::M atom, rare;
  const F w = telegraph_survival<V>(lanes, words[0], atom, rare);
  const U bits = V::bits(V::min(w, V::splat(0x1.fffffep-1f)));
  const U octave = V::band(V::template shift_right<23>(bits), V::splat_bits(15));
  const U first = V::bor(V::template shift_left<7>(lanes.node), V::template shift_left<3>(octave));
  alignas(64) uint32_t offset[kWidth];
  memcpy(offset, &first, sizeof offset);
  F coefficients[8];
  coefficients_of_lanes<V>(table.by_octave, offset, weight, coefficients);
  const F x = telegraph_magnitude<V>(w, atom, lanes.radius, [&](int j, U) DK_INLINE_LAMBDA { return coefficients[j]; });
  alignas(64) float drawn[kWidth], is_atom[kWidth];
  V::store(drawn, with_sign<V>(x, words[0]));
  if (kVelocity) V::store(is_atom, V::select(atom, V::splat(1.f), V::splat(0.f)));
  if (DK_UNLIKELY(V::any(rare))) {
    uint32_t word[kWidth];
    float is_rare[kWidth];
    memcpy(word, words, sizeof word);
    V::store(is_rare, V::select(rare, V::splat(1.f), V::splat(0.f)));
    for (int n = 0; n < kWidth; ++n) {
      if (is_rare[n] == 0.f) continue;
      bool never_turned;
      const float magnitude =
          telegraph_rare(telegraph_row(t[n], a, c), table, row_stream(key, int64_t(uint64_t(row) + uint64_t(n))), 0, i,
                         0, word[n], never_turned);
      drawn[n] = with_sign<Scalar>(magnitude, word[n]);
      is_atom[n] = never_turned;
    }
  }
  if (width == 1) {
    V::store(k, V::load(drawn));
  } else {
    for (int n = 0; n < kWidth; ++n) k[n * width + i] = drawn[n];
  }
  if (kVelocity)
    for (int n = 0; n < kWidth; ++n) v[n * width + i] = is_atom[n];
}

// `count` <= kMost rows from number `row` on, of `width` elements: element i of row n goes to k[n * width + i], its
// velocity to v there if kVelocity. One Philox call an element, of which one word is used: right for short rows. The
// arrays have room for whole vectors of rows.
template <class V, bool kVelocity, int kMost>
inline void telegraph_short_rows(const double* t, double a, double c, const PhiloxKey& key, int64_t row, int count,
                                 int width, float* k, float* v) {
  constexpr int kWidth = V::kWidth;
  static_assert(kMost % kWidth == 0);
  TelegraphRow<V> lanes[kMost / kWidth];
  alignas(64) float weight[kMost / kWidth][4][kWidth];
  for (int begin = 0; begin < count; begin += kWidth) {
    lanes[begin / kWidth] = telegraph_lanes<V>(t + begin, a, c);
    for (int j = 0; j < 4; ++j) V::store(weight[begin / kWidth][j], lanes[begin / kWidth].weight[j]);
  }
  const QuantileTable table = quantile_table();
  for (int begin = 0; begin < count; begin += kWidth)
    for (int i = 0; i < width; ++i)
      telegraph_short_vector<V, kVelocity>(lanes[begin / kWidth], weight[begin / kWidth], table, t + begin, a, c, key,
                                           row + begin, i, width, k + begin * width, v + begin * width);
  if (!kVelocity) return;
  for (int n = 0; n < count; ++n) {
    const TelegraphVelocityRow velocity = telegraph_velocity_row(t[n], a, c);
    for (int i = n * width; i < (n + 1) * width; ++i) v[i] = telegraph_velocity<Scalar>(k[i], v[i] != 0.f, velocity);
  }
}

DK_NAMESPACE_END
