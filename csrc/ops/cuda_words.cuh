// CUDA: the random words of a row, and what a thread makes of four of them.
#pragma once
#include "../random/philox.h"
#include "cuda_common.cuh"

DK_NAMESPACE_BEGIN

struct Four {
  float of[4];
};

__device__ inline RowStream stream_of(const Seed& seed, int64_t row) {
  return row_stream(philox_key(seed_value(seed)), seed.row_offset + row);
}

// The 16 words of a thread's four calls: number(i) is that of call i in a chunk that begins with `block`.
template <class Number>
__device__ inline void draw_words(const RowStream& stream, int64_t block, Number&& number, uint32_t words[4][4]) {
  // A chunk's calls agree in all but the low bits of their number: no carry.
  const uint64_t first = uint64_t(block) * kCallsPerBlock;
  const uint32_t c1 = uint32_t(first >> 32) << 2 | kMainWords;
  DK_UNROLL
  for (int i = 0; i < 4; ++i)
    philox<Scalar>(uint32_t(first) + uint32_t(number(i)), c1, stream.row_low, stream.row_high, stream.key, words + i);
}

DK_NAMESPACE_END
