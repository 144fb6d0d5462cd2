// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a counter-based generator, so
// any word can be computed anywhere. The counter of a draw is
//   c0 = call index inside the row, c1 = what the words are for, (c2, c3) = row number;  the key is the seed.
// Telegraph: one word an element. Element i of a row belongs to block i / 64; its call index is 16 * block + i % 16 and
// its word (i % 64) / 16, so a vector of 16, 8 or 1 lanes, or a GPU thread of any width, finds the same word.
// Planar: two words of one call a pair. Pair p, the elements 2 p and 2 p + 1, belongs to block p / 32; its call index
// is 16 * block + p % 16, its word for the radius 2 * (p % 32 / 16), and the next one is for the direction.
// Quad: the four words of one call a group of four. Group q, the elements 4 q to 4 q + 3, has call index q; word 0 is
// for the radius, 1 for the share of the first two elements, 2 and 3 for the angles.
#pragma once
#include "../lanes/platform.h"

DK_NAMESPACE_BEGIN

constexpr int64_t kBlock = 64;  // elements of a row that share 16 Philox calls
constexpr int kCallsPerBlock = 16;

enum Purpose : uint32_t { kMainWords = 0, kSecondWords = 1, kRareWords = 2 };  // c1 keeps its low 2 bits for this

struct PhiloxKey {
  uint32_t low[10], high[10];  // the round keys
};

DK_INLINE PhiloxKey philox_key(uint64_t seed) {
  PhiloxKey key;
  DK_UNROLL
  for (uint32_t round = 0; round < 10; ++round) {
    key.low[round] = uint32_t(seed) + round * 0x9E3779B9u;
    key.high[round] = uint32_t(seed >> 32) + round * 0xBB67AE85u;
  }
  return key;
}

constexpr uint32_t kPhiloxMul0 = 0xD2511F53u, kPhiloxMul1 = 0xCD9E8D57u;

template <class V>
DK_INLINE void philox_round(typename V::Wide y[4], const PhiloxKey& key, int round) {
  using Wide = typename V::Wide;
  const Wide product0 = V::wide_mul(y[0], kPhiloxMul0), product1 = V::wide_mul(y[2], kPhiloxMul1);
  y[0] = V::wide_xor3(V::wide_high(product1), y[1], V::wide_splat(key.low[round]));
  y[1] = product1;
  y[2] = V::wide_xor3(V::wide_high(product0), y[3], V::wide_splat(key.high[round]));
  y[3] = product0;
}

// Counters (call + lane, c1, c2, c3) for the lanes of V; words[j] is output word j of every lane. kVectors calls at
// once, 16 apart: the rounds of one wait for each other, those of several overlap. V::Wide holds 32-bit values in
// 64-bit lanes (the upper halves are ignored), V::kWides of them make up the lanes of V: the product of two 32-bit
// halves then needs no shuffling between rounds. Only c0 differs between lanes, so half of the first two rounds is
// arithmetic on single numbers, which a loop over the blocks of a row does once.
template <class V, int kVectors = 1>
DK_INLINE void philox(uint32_t call, uint32_t c1, uint32_t c2, uint32_t c3, const PhiloxKey& key,
                      typename V::U words[][4]) {
  constexpr int kParts = V::kWides * kVectors;
  using Wide = typename V::Wide;
  const uint64_t first = uint64_t(c2) * kPhiloxMul1;
  const uint64_t second = uint64_t(uint32_t(first >> 32) ^ c1 ^ key.low[0]) * kPhiloxMul0;
  const Wide x2 = V::wide_splat(c3 ^ key.high[0]), y0 = V::wide_splat(uint32_t(first) ^ key.low[1]);
  const Wide y2 = V::wide_splat(uint32_t(second >> 32) ^ key.high[1]), y3 = V::wide_splat(uint32_t(second));
  Wide x[kParts][4];
  DK_UNROLL
  for (int part = 0; part < kParts; ++part) {
    const Wide product0 = V::wide_mul(
        V::wide_counter(call + uint32_t(kCallsPerBlock) * (part / V::kWides), part % V::kWides), kPhiloxMul0);
    const Wide product1 = V::wide_mul(V::wide_xor(V::wide_high(product0), x2), kPhiloxMul1);
    x[part][0] = V::wide_xor(V::wide_high(product1), y0);
    x[part][1] = product1;
    x[part][2] = V::wide_xor(product0, y2);
    x[part][3] = y3;
  }
  DK_UNROLL
  for (int round = 2; round < 10; ++round) {
    DK_UNROLL
    for (int part = 0; part < kParts; ++part) philox_round<V>(x[part], key, round);
  }
  DK_UNROLL
  for (int vector = 0; vector < kVectors; ++vector) {
    const Wide(*y)[4] = x + vector * V::kWides;
    DK_UNROLL
    for (int j = 0; j < 4; ++j) words[vector][j] = V::wide_join(y[0][j], y[V::kWides - 1][j]);
  }
}

// Output word 0, ... of one call, for the rows `row`, `row` + 1, ... on the lanes.
template <class V>
DK_INLINE void philox_rows(uint32_t call, uint32_t c1, uint64_t row, const PhiloxKey& key, typename V::U words[4]) {
  using Wide = typename V::Wide;
  Wide x[V::kWides][4];
  DK_UNROLL
  for (int part = 0; part < V::kWides; ++part) {
    Wide* y = x[part];
    const Wide number = V::wide_counter(row, part);
    y[0] = V::wide_splat(call), y[1] = V::wide_splat(c1), y[2] = number, y[3] = V::wide_high(number);
    DK_UNROLL
    for (int round = 0; round < 10; ++round) philox_round<V>(y, key, round);
  }
  DK_UNROLL
  for (int j = 0; j < 4; ++j) words[j] = V::wide_join(x[0][j], x[V::kWides - 1][j]);
}

// The words of one block of a row, for the lanes starting at `lane`.
struct RowStream {
  PhiloxKey key;
  uint32_t row_low, row_high;

  // Of kVectors blocks from `block` on; they must not cross a multiple of 2^28 blocks.
  template <class V, int kVectors>
  DK_INLINE void words(uint64_t block, int lane, Purpose purpose, typename V::U out[][4]) const {
    const uint64_t call = block * kCallsPerBlock + uint64_t(lane);
    philox<V, kVectors>(uint32_t(call), (uint32_t(call >> 32) << 2) | purpose, row_low, row_high, key, out);
  }
  template <class V>
  DK_INLINE void words(uint64_t block, int lane, Purpose purpose, typename V::U out[4]) const {
    words<V, 1>(block, lane, purpose, reinterpret_cast<typename V::U(*)[4]>(out));
  }
};

DK_INLINE RowStream row_stream(const PhiloxKey& key, int64_t row) {
  return {key, uint32_t(uint64_t(row)), uint32_t(uint64_t(row) >> 32)};
}

DK_NAMESPACE_END
