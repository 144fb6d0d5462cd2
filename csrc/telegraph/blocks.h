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
    const Parameters parameters{splat_row<V>(row), velocity, telegraph_is_small(row)};
    typename V::Table tables[7];
    for (int k = 0; k < 7; ++k) tables[k] = V::table(coefficients + 16 * k);
    for_each_block<V>(
        begin, end,
        [&](auto blocks, int64_t index, auto&& store)
            DK_INLINE_LAMBDA { block<kVelocity, blocks()>(words, parameters, tables, index, store); },
        sink);
  }

 private:
  struct Parameters {
    TelegraphRow<V> row;
    TelegraphVelocityRow velocity;
    bool small;
  };
  struct Redone {
    F x;
    M atom;
  };

  template <bool kVelocity, int kBlocks, class Store>
  DK_INLINE void block(const RowStream& random, const Parameters& parameters, const typename V::Table* tables,
                       int64_t index, Store&& store) const {
    DK_UNROLL
    for (int lane = 0; lane < kCallsPerBlock; lane += V::kWidth) {
      U words[kBlocks][4];
      random.words<V, kBlocks>(uint64_t(index), lane, kMainWords, words);
      DK_UNROLL
      for (int n = 0; n < kBlocks; ++n) {
        DK_UNROLL
        for (int j = 0; j < 4; j += kTogether)
          vectors<kVelocity>(parameters, tables, index + n, lane, j, words[n] + j,
                             [&](int place, F k, F v) DK_INLINE_LAMBDA { store(int(kBlock) * n + place, k, v); });
      }
    }
  }

  // The vectors `first`, ... of a block. As many together as registers allow: one branch serves them all.
  static constexpr int kTogether = V::kWidth == 16 ? 4 : 1;
  template <bool kVelocity, class Store>
  DK_INLINE void vectors(const Parameters& parameters, const typename V::Table* tables, int64_t index, int lane,
                         int first, const U* words, Store&& store) const {
    F x[kTogether];
    M atom[kTogether], rare[kTogether];
    bool all_near = V::kWidth == 8;
    M any_rare;
    DK_UNROLL
    for (int j = 0; j < kTogether; ++j) {
      const F w = telegraph_survival<V>(parameters.row, words[j], atom[j], rare[j]);
      // With eight lanes the lookup of the common w' is cheaper, and where all are common none is rare, but in small
      // rows.
      const bool near = V::kWidth == 8 && !V::any(V::mask_andnot(V::less(w, V::splat(kSmallestNear)), atom[j]));
      all_near = all_near && near;
      x[j] = telegraph_magnitude<V>(w, atom[j], parameters.row.radius, [&](int k, U exponent) DK_INLINE_LAMBDA {
        return V::lookup(tables[k], exponent, near);
      });
      any_rare = j ? V::mask_or(any_rare, rare[j]) : rare[j];
    }
    if (DK_UNLIKELY((!all_near || parameters.small) && V::any(any_rare))) {
      DK_UNROLL
      for (int j = 0; j < kTogether; ++j) {
        const Redone redone = redo_rare(index, lane, first + j, words[j], rare[j], x[j], atom[j]);
        x[j] = redone.x, atom[j] = redone.atom;
      }
    }
    DK_UNROLL
    for (int j = 0; j < kTogether; ++j) {
      const F k = with_sign<V>(x[j], words[j]);
      store(16 * (first + j) + lane, k, kVelocity ? telegraph_velocity<V>(k, atom[j], parameters.velocity) : k);
    }
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
