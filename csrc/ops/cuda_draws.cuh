// CUDA: displacements and velocities of one row. The block shares the row's parameters and quantile coefficients; a
// thread makes four Philox calls, whose 16 words belong to four groups of four neighbouring elements of a 64-block.
#pragma once
#include "../planar/flight.h"
#include "../telegraph/quantile.h"
#include "cuda_common.cuh"

DK_NAMESPACE_BEGIN

struct TelegraphShared {
  TelegraphRow<Scalar> row;
  TelegraphVelocityRow velocity;
  RowStream stream;
  float coefficients[kQuantileFast];
  bool valid;
};

struct PlanarShared {
  PlanarRow<Scalar> row;
  RowStream stream;
  bool valid;
};

__device__ inline void prepare(TelegraphShared& shared, double t, const Kac& kac, const RowStream& stream,
                               const QuantileTable& table) {
  __syncthreads();  // the block may still read the row before
  if (threadIdx.x == 0) {
    shared.valid = row_is_valid(t, kac.a, kac.c);
    shared.row = telegraph_row(shared.valid ? t : 0.0, kac.a, kac.c);
    shared.velocity = telegraph_velocity_row(shared.valid ? t : 0.0, kac.a, kac.c);
    shared.stream = stream;
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < kQuantileFast; i += int(blockDim.x))
    shared.coefficients[i] = telegraph_coefficients<Scalar>(shared.row, table.fast, i);
  __syncthreads();
}

__device__ inline void prepare(PlanarShared& shared, double t, const Kac& kac, const RowStream& stream,
                               const QuantileTable&) {
  __syncthreads();
  if (threadIdx.x == 0) {
    shared.valid = row_is_valid(t, kac.a, kac.c);
    shared.row = planar_row(shared.valid ? t : 0.0, kac.a, kac.c);
    shared.stream = stream;
  }
  __syncthreads();
}

// The rare words: out of line, so that their double arithmetic takes no registers from the others. -1: an atom.
static __device__ __noinline__ float rare_magnitude(const TelegraphRow<Scalar>* row, QuantileTable table,
                                                    const RowStream* stream, int64_t block, int lane, int j,
                                                    uint32_t word) {
  bool atom;
  const float magnitude = telegraph_rare(*row, table, *stream, block, lane, j, word, atom);
  return atom ? -1.f : magnitude;
}

// f(offset, k, v) for the four groups of `quad` (0..3) of a block: k, v are four displacements and velocities, offset
// the first one's place in the block.
template <bool kVelocity, class F>
__device__ inline void draw_groups(const TelegraphShared& shared, const RowStream& stream, const QuantileTable& table,
                                   int64_t block, int quad, F&& f) {
  const TelegraphRow<Scalar>& row = shared.row;
  const float* tables[7];
  DK_UNROLL
  for (int k = 0; k < 7; ++k) tables[k] = shared.coefficients + 16 * k;
  uint32_t words[4][4];
  DK_UNROLL
  for (int call = 0; call < 4; ++call) stream.words<Scalar>(uint64_t(block), 4 * quad + call, kMainWords, words[call]);
  DK_UNROLL
  for (int j = 0; j < 4; ++j) {
    float k[4], v[4];
    DK_UNROLL
    for (int call = 0; call < 4; ++call) {
      const uint32_t word = words[call][j];
      bool atom, rare;
      const float w = telegraph_survival<Scalar>(row, word, atom, rare);
      float magnitude = telegraph_magnitude<Scalar>(
          w, atom, row.radius, [&](int k, uint32_t exponent) { return tables[k][exponent & 15u]; });
      if (rare) {
        magnitude = rare_magnitude(&row, table, &shared.stream, block, 4 * quad + call, j, word);
        atom = magnitude < 0;
        if (atom) magnitude = row.radius;
      }
      k[call] = with_sign<Scalar>(magnitude, word);
      v[call] = kVelocity ? telegraph_velocity<Scalar>(k[call], atom, shared.velocity) : 0.f;
    }
    f(16 * j + 4 * quad, k, v);
  }
}

template <bool kVelocity, class F>
__device__ inline void draw_groups(const PlanarShared& shared, const RowStream& stream, const QuantileTable&,
                                   int64_t block, int quad, F&& f) {
  uint32_t words[4][4];
  DK_UNROLL
  for (int call = 0; call < 4; ++call) stream.words<Scalar>(uint64_t(block), 4 * quad + call, kMainWords, words[call]);
  DK_UNROLL
  for (int half = 0; half < 2; ++half) {
    DK_UNROLL
    for (int two = 0; two < 4; two += 2) {  // two calls, two pairs, four elements
      float k[4], v[4];
      DK_UNROLL
      for (int i = 0; i < 2; ++i)
        planar_draw<Scalar>(shared.row, words[two + i][2 * half], words[two + i][2 * half + 1], k[2 * i], k[2 * i + 1],
                            v[2 * i], v[2 * i + 1]);
      f(32 * half + 2 * (4 * quad + two), k, v);
    }
  }
}

// f(i, count, k, v) for every group of four elements of a chunk, i the first one's place in the row. A row whose time
// is out of range gives NaN.
template <bool kVelocity, class Shared, class F>
__device__ inline void for_each_draw(const Shared& shared, const QuantileTable& table, const Chunk& chunk, F&& f) {
  const RowStream& stream = shared.stream;
  const int64_t quads = (chunk.end - chunk.begin + kBlock - 1) / kBlock * 4;
  for (int64_t index = threadIdx.x; index < quads; index += blockDim.x) {
    const int64_t block = chunk.begin / kBlock + index / 4;
    draw_groups<kVelocity>(shared, stream, table, block, int(index % 4), [&](int offset, float k[4], float v[4]) {
      const int64_t i = block * kBlock + offset;
      if (i >= chunk.end) return;
      if (!shared.valid) {
        DK_UNROLL
        for (int n = 0; n < 4; ++n) k[n] = v[n] = NAN;
      }
      f(i, chunk.end - i, k, v);
    });
  }
}

__device__ inline RowStream stream_of(const Seed& seed, int64_t row) {
  return row_stream(philox_key(seed_value(seed)), seed.row_offset + row);
}

DK_NAMESPACE_END
