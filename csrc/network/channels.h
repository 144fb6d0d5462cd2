// CPU: loops over an image with its channels last in memory, (positions, channels). A channel is always summed in the
// same order, whatever the width of the vectors: the same bits at every SIMD level.
#pragma once
#include "../lanes/loops.h"

DK_NAMESPACE_BEGIN

// f(lanes, c) for the channels [c, c + width): by whole vectors, then eights, then one by one.
template <class F>
DK_INLINE void for_each_channel(int64_t channels, F&& f) {
  int64_t c = 0;
  for (; c + Lanes::kWidth <= channels; c += Lanes::kWidth) f(Lanes{}, c);
  if constexpr (Lanes::kWidth > 8)
    for (; c + 8 <= channels; c += 8) f(Lanes::Eight{}, c);
  if constexpr (Lanes::kWidth > 1) for_each_scalar(c, channels, 1, f);
}

// sums[j][c] = the sum over all positions i of the j-th number that term(lanes, i, c, numbers) gives: in float32 for
// kTogether positions, in four parts that the processor adds side by side, and in float64 beyond.
template <int n, class Term>
DK_INLINE void sum_over_positions(int64_t positions, int64_t channels, double* const (&sums)[n], Term&& term) {
  constexpr int64_t kTogether = 256;
  for (int j = 0; j < n; ++j)
    for (int64_t c = 0; c < channels; ++c) sums[j][c] = 0;
  for (int64_t first = 0; first < positions; first += kTogether) {
    const int64_t end = first + kTogether < positions ? first + kTogether : positions;
    for_each_channel(channels, [&](auto lanes, int64_t c) DK_INLINE_LAMBDA {
      using V = decltype(lanes);
      using F = typename V::F;
      F parts[4][n], numbers[n];
      for (int k = 0; k < 4; ++k)
        for (int j = 0; j < n; ++j) parts[k][j] = V::splat(0.f);
      int64_t i = first;
      for (; i + 4 <= end; i += 4) {
        DK_UNROLL
        for (int k = 0; k < 4; ++k) {
          term(lanes, i + k, c, numbers);
          DK_UNROLL
          for (int j = 0; j < n; ++j) parts[k][j] = parts[k][j] + numbers[j];
        }
      }
      for (; i < end; ++i) {
        term(lanes, i, c, numbers);
        for (int j = 0; j < n; ++j) parts[0][j] = parts[0][j] + numbers[j];
      }
      for (int j = 0; j < n; ++j) {
        float together[V::kWidth];
        V::store(together, (parts[0][j] + parts[1][j]) + (parts[2][j] + parts[3][j]));
        for (int lane = 0; lane < V::kWidth; ++lane) sums[j][c + lane] += double(together[lane]);
      }
    });
  }
}

DK_NAMESPACE_END
