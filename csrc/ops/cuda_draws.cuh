// CUDA: displacements and velocities of one row, of any process. The block shares the row's parameters; a thread makes
// four Philox calls, whose 16 words belong to four groups of four neighbouring elements of a 64-block. Group j of
// neighbouring threads is side by side, so that together they read and write whole pieces of memory.
#pragma once
#include "../planar/flight.h"
#include "../quad/flight.h"
#include "cuda_telegraph.cuh"

DK_NAMESPACE_BEGIN

struct PlanarShared {
  static constexpr int kResident = 6, kResidentPair = 6;
  static constexpr bool kHasRare = false;
  PlanarRow<Scalar> row;
  alignas(16) RowStream stream;
  int64_t block;
};

struct QuadShared {
  static constexpr int kResident = 7, kResidentPair = 4;
  static constexpr bool kHasRare = false;
  QuadRow<Scalar> row;
  alignas(16) RowStream stream;
  int64_t block;
};

__device__ inline void set_row(PlanarRow<Scalar>& row, double t, const Kac& kac) { row = planar_row(t, kac.a, kac.c); }
__device__ inline void set_row(QuadRow<Scalar>& row, double t, const Kac& kac) { row = quad_row(t, kac.a, kac.c); }

// Planar or quad.
template <class Shared>
__device__ inline void prepare(Shared& shared, double t, const Kac& kac, const Seed& seed, const Chunk& chunk,
                               const QuantileTable&) {
  const bool valid = row_is_valid(t, kac.a, kac.c);
  __syncthreads();
  if (threadIdx.x == 0) {
    set_row(shared.row, valid ? t : 0.0, kac);
    if (!valid) shared.row.radius = shared.row.c = NAN;
  }
  if (threadIdx.x == 32) shared.stream = stream_of(seed, chunk.row), shared.block = chunk.begin / kBlock;
  __syncthreads();
}

// Two neighbouring calls, and the two that are eight further: each pair of them has the words of a group of four,
// twice. With four neighbouring calls a thread would have groups side by side, and each of its accesses half of 32
// bytes, which memory moves at a time.
template <bool kVelocity, class F, class... To>
__device__ inline unsigned draw_groups(unsigned quad, F&& f, const PlanarShared& shared, const To&... to) {
  const PlanarRow<Scalar> row = shared.row;
  uint32_t words[4][4];
  const unsigned first = kCallsPerBlock * (quad / 4) + 2 * (quad % 4);
  draw_words(shared.stream, shared.block, [&](int i) { return first + unsigned(8 * (i / 2) + i % 2); }, words);
  DK_UNROLL
  for (int j = 0; j < 4; ++j) {  // two words of two calls, two pairs, four elements
    const auto draw = [&](const PlanarRow<Scalar>& at, Four& k, Four& v) {
      DK_UNROLL
      for (int i = 0; i < 2; ++i) {
        const uint32_t* call = words[2 * (j % 2) + i];
        planar_draw<Scalar>(at, planar_words<Scalar>(call[j / 2 * 2], call[j / 2 * 2 + 1]), k.of[2 * i],
                            k.of[2 * i + 1], v.of[2 * i], v.of[2 * i + 1]);
      }
    };
    Four k, v, k_to, v_to;
    draw(row, k, v);
    (draw(to.row, k_to, v_to), ...);
    f(j, k, v, k_to);
  }
  return 0;
}

// A group of four elements a call. The thread's calls are four apart, so that neighbouring threads write neighbouring
// groups.
template <bool kVelocity, class F, class... To>
__device__ inline unsigned draw_groups(unsigned quad, F&& f, const QuadShared& shared, const To&... to) {
  const QuadRow<Scalar> row = shared.row;
  const RowStream stream = shared.stream;
  const uint64_t first = uint64_t(shared.block) * kCallsPerBlock;
  const uint32_t c1 = uint32_t(first >> 32) << 2 | kMainWords, call = uint32_t(first) + 16 * (quad / 4) + quad % 4;
#pragma unroll 1
  for (int j = 0; j < 4; ++j) {
    uint32_t words[1][4];
    philox<Scalar>(call + 4 * uint32_t(j), c1, stream.row_low, stream.row_high, stream.key, words);
    const QuadWords<Scalar> drawn = quad_words<Scalar>(words[0]);
    Four k, v, k_to, v_to;
    quad_draw<Scalar>(row, drawn, k.of, v.of);
    (quad_draw<Scalar>(to.row, drawn, k_to.of, v_to.of), ...);
    f(j, k, v, k_to);
  }
  return 0;
}

// Where a thread's first group lies in its block, and the others.
__device__ inline int place_of(const QuadShared&, unsigned quad, int j) { return 4 * int(quad % 4) + 16 * j; }
__device__ inline int place_of(const PlanarShared&, unsigned quad, int j) {
  return 4 * int(quad % 4) + 32 * (j / 2) + 16 * (j % 2);
}

// f(access, j, i, k, v, k_to) as draw_groups has it, for every group of four elements of a chunk, i the first one's
// place in it. Before a thread's groups are drawn ask(access, j, i) is called for each. A row whose time is out of
// range gives NaN.
template <bool kVelocity, class Ask, class F, class Shared, class... To>
__device__ inline void for_each_draw(const Chunk& chunk, bool whole, Ask&& ask, F&& f, const Shared& shared,
                                     const To&... to) {
  const int length = length_of(chunk);
  const unsigned quads = unsigned(length + int(kBlock) - 1) / unsigned(kBlock) * 4;
  const auto each = [&](auto access_to) {
    // act(access, j, i) for group j of a quad, if there is one.
    const auto at = [&](unsigned quad, int j, auto&& act) {
      const int place = int(quad / 4 * kBlock) + place_of(shared, quad, 0), further = place_of(shared, 0, j);
      if (further < length - place) act(access_to(length - place - further), j, int64_t(place) + further);
    };
    const auto use = [&](unsigned quad, int j, const Four& k, const Four& v, const Four& k_to) {
      at(quad, j, [&](auto access, int, int64_t i) { f(access, j, i, k, v, k_to); });
    };
    unsigned later = 0;  // four bits for each quad of the thread
    int round = 0;
    for (unsigned quad = threadIdx.x; quad < quads; quad += kThreads, round += 4) {
      DK_UNROLL
      for (int j = 0; j < 4; ++j) at(quad, j, ask);
      const auto draw = [&](int j, const Four& k, const Four& v, const Four& k_to) { use(quad, j, k, v, k_to); };
      later |= draw_groups<kVelocity>(quad, draw, shared, to...) << round;
    }
    if constexpr (Shared::kHasRare)
      if (later)  // after the loop, where few registers are taken: it calls
        draw_later<kVelocity>(
            later,
            [&](unsigned quad, int j, const Four& k, const Four& v, const Four& k_to) {
              at(quad, j, ask);
              use(quad, j, k, v, k_to);
            },
            shared, to...);
  };
  if (whole)
    each([](int) { return Whole<1>{}; });
  else
    each([](int count) { return Part{count}; });
}

DK_NAMESPACE_END
