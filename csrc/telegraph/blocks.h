// CPU: telegraph displacements of one row, 64 elements at a time.
#pragma once
#include "../random/blocks.h"
#include "quantile.h"

DK_NAMESPACE_BEGIN

template <class V>
struct TelegraphBlocks {
  using F = typename V::F;
  using U = typename V::U;
  using M = typename V::M;
  RowStream stream;
  TelegraphRow<Scalar> row;
  TelegraphVelocityRow velocity;
  QuantileTable master;
  alignas(64) float coefficients[kQuantileFast];

  // velocity_row is read for a sink that wants velocities only.
  TelegraphBlocks(const TelegraphRow<Scalar>& telegraph, const TelegraphVelocityRow& velocity_row,
                  const RowStream& row_words)
      : stream(row_words), row(telegraph), velocity(velocity_row), master(quantile_table()) {
    for (int first = 0; first < kQuantileFast; first += V::kWidth)
      V::store(coefficients + first, telegraph_coefficients<V>(row, master.fast, first));
  }

  // sink(lanes, i, k, v) for the elements [begin, end) of the row; begin is a multiple of 64. v only if kVelocity.
  template <bool kVelocity, class Sink>
  DK_INLINE void for_each(int64_t begin, int64_t end, Sink&& sink) const {
    // Copies whose addresses nobody knows: what the sink stores cannot change them, so they stay in registers.
    const RowStream words = stream;
    const Parameters parameters = copied();
    for_each_block<V, 2>(
        begin, end,
        [&](auto blocks, int64_t index, auto&& store) DK_INLINE_LAMBDA {
          draw<blocks()>(words, index, [&](const Place& at, const U* word) DK_INLINE_LAMBDA {
            F k[kTogether];
            M atom[kTogether];
            displacements(parameters, at, word, k, atom);
            DK_UNROLL
            for (int j = 0; j < kTogether; ++j)
              store(at.first + 16 * j, k[j],
                    kVelocity ? telegraph_velocity<V>(k[j], atom[j], parameters.velocity) : k[j]);
          });
        },
        sink);
  }

  // The same with a second displacement from the same words, that of the row at another time: sink(lanes, i, k, v,
  // k_to).
  template <class Sink>
  DK_INLINE void for_each(int64_t begin, int64_t end, const TelegraphBlocks& to, Sink&& sink) const {
    const RowStream words = stream;
    const Parameters parameters = copied(), parameters_to = to.copied();
    for_each_block<V, 3>(
        begin, end,
        [&](auto blocks, int64_t index, auto&& store) DK_INLINE_LAMBDA {
          draw<blocks()>(words, index, [&](const Place& at, const U* word) DK_INLINE_LAMBDA {
            F k[kTogether], k_to[kTogether];
            M atom[kTogether], atom_to[kTogether];
            to.displacements(parameters_to, at, word, k_to, atom_to);
            displacements(parameters, at, word, k, atom);
            DK_UNROLL
            for (int j = 0; j < kTogether; ++j)
              store(at.first + 16 * j, k[j], telegraph_velocity<V>(k[j], atom[j], parameters.velocity), k_to[j]);
          });
        },
        sink);
  }

 private:
  struct Parameters {
    TelegraphRow<V> row;
    TelegraphVelocityRow velocity;
    bool small;
    typename V::Table tables[7];
  };
  struct Place {
    int64_t index;  // the block
    int lane, word,
        first;  // of the first vector: its lane among the calls, its word of them, its place from `index` on
  };
  struct Redone {
    F x;
    M atom;
  };
  static constexpr int kTogether = V::kWidth == 16 ? 4 : 1;  // vectors, as many as registers allow: one branch for all

  DK_INLINE Parameters copied() const {
    Parameters parameters{splat_row<V>(row), velocity, telegraph_is_small(row), {}};
    for (int k = 0; k < 7; ++k) parameters.tables[k] = V::table(coefficients + 16 * k);
    return parameters;
  }

  // each(place, words) for every kTogether vectors of kBlocks blocks.
  template <int kBlocks, class Each>
  static DK_INLINE void draw(const RowStream& random, int64_t index, Each&& each) {
    for_each_lane<V>([&](int lane) DK_INLINE_LAMBDA {
      U words[kBlocks][4];
      random.words<V, kBlocks>(uint64_t(index), lane, kMainWords, words);
      DK_UNROLL
      for (int n = 0; n < kBlocks; ++n) {
        DK_UNROLL
        for (int j = 0; j < 4; j += kTogether)
          each(Place{index + n, lane, j, int(kBlock) * n + 16 * j + lane}, words[n] + j);
      }
    });
  }

  // The displacements of kTogether vectors, and which of them never turned.
  DK_INLINE void displacements(const Parameters& parameters, const Place& at, const U* words, F* k, M* atom) const {
    F x[kTogether];
    M rare[kTogether];
    bool all_near = V::kWidth == 8;
    M any_rare;
    DK_UNROLL
    for (int j = 0; j < kTogether; ++j) {
      const F w = telegraph_survival<V>(parameters.row, words[j], atom[j], rare[j]);
      // With eight lanes the lookup of the common w' is cheaper, and where all are common none is rare, but in small
      // rows.
      const bool near = V::kWidth == 8 && !V::any(V::mask_andnot(V::less(w, V::splat(kSmallestNear)), atom[j]));
      all_near = all_near && near;
      x[j] = telegraph_magnitude<V>(w, atom[j], parameters.row.radius, [&](int n, U exponent) DK_INLINE_LAMBDA {
        return V::lookup(parameters.tables[n], exponent, near);
      });
      any_rare = j ? V::mask_or(any_rare, rare[j]) : rare[j];
    }
    if (DK_UNLIKELY((!all_near || parameters.small) && V::any(any_rare))) {
      DK_UNROLL
      for (int j = 0; j < kTogether; ++j) {
        const Redone redone = redo_rare(at.index, at.lane, at.word + j, words[j], rare[j], x[j], atom[j]);
        x[j] = redone.x, atom[j] = redone.atom;
      }
    }
    DK_UNROLL
    for (int j = 0; j < kTogether; ++j) k[j] = with_sign<V>(x[j], words[j]);
  }

  __attribute__((noinline)) Redone redo_rare(int64_t index, int first_lane, int j, U words, M rare, F x, M atom) const {
    uint32_t word_of[V::kWidth];
    float is_rare[V::kWidth], is_atom[V::kWidth], magnitude[V::kWidth];
    memcpy(word_of, &words, sizeof words);
    V::store(is_rare, V::select(rare, V::splat(1.f), V::splat(0.f)));
    V::store(is_atom, V::select(atom, V::splat(1.f), V::splat(0.f)));
    V::store(magnitude, x);
    for (int i = 0; i < V::kWidth; ++i) {
      if (is_rare[i] == 0.f) continue;
      bool never_turned;
      magnitude[i] = telegraph_rare(row, master, stream, index, first_lane + i, j, word_of[i], never_turned);
      is_atom[i] = never_turned;
    }
    return {V::load(magnitude), V::less(V::splat(0.f), V::load(is_atom))};
  }
};

DK_NAMESPACE_END
