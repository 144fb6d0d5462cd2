// CUDA: displacements and velocities of one row. The block shares the row's parameters and quantile coefficients; a
// thread makes four Philox calls, whose 16 words belong to four groups of four neighbouring elements of a 64-block.
#pragma once
#include "../planar/flight.h"
#include "../quad/flight.h"
#include "../telegraph/quantile.h"
#include "cuda_common.cuh"

DK_NAMESPACE_BEGIN

// A row of the lookup table: its octave's polynomial, and what brings a w' of that octave into [1, 2).
struct alignas(16) Coefficients {
  float of[4];
};

struct TelegraphShared {
  static constexpr int kResident = 3;  // blocks of kac_pair that fit on a multiprocessor: at 4 some architecture spills
  TelegraphRow<Scalar> row;
  TelegraphVelocityRow velocity;
  alignas(16) RowStream stream;
  QuantileTable table;  // this and the next for redo_rare
  int64_t block;        // where the chunk begins
  // Coefficients 0 to 3, and 4 to 6 with the scale, by the low five bits of the exponent of w': rows 15 to 30 are the
  // octaves down to 2^-16, row 14 is c t for all below. Two reads of 16 bytes; banks clash from the eighth octave on.
  Coefficients low[32], high[32];
};

struct PlanarShared {
  static constexpr int kResident = 6;
  PlanarRow<Scalar> row;
  alignas(16) RowStream stream;
  int64_t block;
};

struct QuadShared {
  static constexpr int kResident = 4;
  QuadRow<Scalar> row;
  alignas(16) RowStream stream;
  int64_t block;
};

constexpr int kAtomRow = 14;
constexpr float kBelowFast = 0x1p-17f;  // in row 14

__device__ inline RowStream stream_of(const Seed& seed, int64_t row) {
  return row_stream(philox_key(seed_value(seed)), seed.row_offset + row);
}

// The parameters of a row, by one thread of each of two warps; of a row whose time is out of range, those of t = 0 (no
// particle turned) with NaN for c t and c.
__device__ inline void prepare(TelegraphShared& shared, double t, const Kac& kac, const Seed& seed, const Chunk& chunk,
                               const QuantileTable& table) {
  const bool valid = row_is_valid(t, kac.a, kac.c);
  __syncthreads();  // the block may still read the row before
  if (threadIdx.x == 0) {
    shared.row = telegraph_row(valid ? t : 0.0, kac.a, kac.c);
    if (!valid) shared.row.radius = NAN;
  }
  if (threadIdx.x == 32) {
    shared.velocity = telegraph_velocity_row(valid ? t : 0.0, kac.a, kac.c);
    if (!valid) shared.velocity.c = NAN;
    shared.stream = stream_of(seed, chunk.row);
    shared.table = table;
    shared.block = chunk.begin / kBlock;
  }
  __syncthreads();
  const int i = int(threadIdx.x), exponent = i % 16, octave_row = kAtomRow + 1 + (exponent + 1) % 16;
  if (i < kQuantileFast) {
    const int k = i / 16;
    (k < 4 ? shared.low : shared.high)[octave_row].of[k % 4] =
        telegraph_coefficients<Scalar>(shared.row, table.fast, i);
  } else {
    shared.high[octave_row].of[3] = bit_cast<float>(uint32_t(158 - octave_row) << 23);
    if (exponent < 8)
      (exponent < 4 ? shared.low : shared.high)[kAtomRow].of[exponent % 4] = exponent ? 0 : shared.row.radius;
  }
  __syncthreads();
}
static_assert(kThreads == kQuantileFast + 16);

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

struct Four {
  float of[4];
};
struct FourWords {
  uint32_t of[4];
};

// Four magnitudes, those of the rare words drawn anew; -1: an atom. Out of line, so that double arithmetic takes no
// registers from the others. words.of[i] is word j of the thread's call i.
static __device__ __noinline__ Four redo_rare(const TelegraphShared* shared, unsigned quad, int j, FourWords words,
                                              Four magnitude) {
  DK_UNROLL
  for (int i = 0; i < 4; ++i) {
    bool atom, rare;
    telegraph_survival<Scalar>(shared->row, words.of[i], atom, rare);
    if (!rare) continue;
    const float redone = telegraph_rare(shared->row, shared->table, shared->stream, shared->block + quad / 4,
                                        4 * int(quad % 4) + i, j, words.of[i], atom);
    magnitude.of[i] = atom ? -1.f : redone;
  }
  return magnitude;
}

// telegraph_magnitude with the shared table, which also gives c t to the atoms: their w' is below 0.
__device__ inline float magnitude_at(const TelegraphShared& shared, float w, float radius) {
  const uint32_t index = bit_cast<uint32_t>(fmaxf(w, kBelowFast)) >> 23 & 31u;
  const Coefficients low = shared.low[index], high = shared.high[index];
  const float t = Scalar::fma(w, high.of[3], -1.5f);  // exact, as the difference it stands for
  float s = high.of[2];
  DK_UNROLL
  for (int k = 5; k >= 0; --k) s = Scalar::fma(s, t, k < 4 ? low.of[k] : high.of[k - 4]);
  return fminf(s, radius);
}

// The 16 words of a thread's four calls.
__device__ inline void draw_words(const RowStream& stream, int64_t block, unsigned quad, uint32_t words[4][4]) {
  // A chunk's calls agree in all but the low bits of their number: no carry.
  const uint64_t first = uint64_t(block) * kCallsPerBlock;
  const uint32_t c1 = uint32_t(first >> 32) << 2 | kMainWords;
  DK_UNROLL
  for (int i = 0; i < 4; ++i)
    philox<Scalar>(uint32_t(first) + 4 * quad + uint32_t(i), c1, stream.row_low, stream.row_high, stream.key,
                   words + i);
}

// The displacements of group j of a thread, from word j of each of its calls, and which of them never turned.
__device__ inline void displacements(const TelegraphShared& shared, const TelegraphRow<Scalar>& row, unsigned quad,
                                     int j, const uint32_t words[4][4], Four& k, bool atom[4]) {
  bool any_rare = false;
  DK_UNROLL
  for (int call = 0; call < 4; ++call) {
    bool rare;
    const float w = telegraph_survival<Scalar>(row, words[call][j], atom[call], rare);
    k.of[call] = magnitude_at(shared, fminf(w, 0x1.fffffep-1f), row.radius);
    any_rare |= rare;
  }
  if (any_rare) {
    k = redo_rare(&shared, quad, j, {{words[0][j], words[1][j], words[2][j], words[3][j]}}, k);
    DK_UNROLL
    for (int call = 0; call < 4; ++call) {
      atom[call] = atom[call] || k.of[call] < 0;
      if (k.of[call] < 0) k.of[call] = row.radius;
    }
  }
  DK_UNROLL
  for (int call = 0; call < 4; ++call) k.of[call] = with_sign<Scalar>(k.of[call], words[call][j]);
}

// f(j, k, v) for the four groups of a thread, which lie at place_of: k, v are four displacements and velocities. quad:
// which four calls of the chunk are the thread's. With a second row (the same at another time): f(j, k, v, k_to).
template <bool kVelocity, class F, class... To>
__device__ inline void draw_groups(unsigned quad, F&& f, const TelegraphShared& shared, const To&... to) {
  const TelegraphRow<Scalar> row = shared.row;  // copies: for all that the compiler knows, f writes over what is shared
  const TelegraphVelocityRow velocity = shared.velocity;
  uint32_t words[4][4];
  draw_words(shared.stream, shared.block, quad, words);
  DK_UNROLL
  for (int j = 0; j < 4; ++j) {
    Four k;
    float v[4];
    bool atom[4];
    displacements(shared, row, quad, j, words, k, atom);
    DK_UNROLL
    for (int call = 0; call < 4; ++call)
      v[call] = kVelocity ? telegraph_velocity<Scalar>(k.of[call], atom[call], velocity) : 0.f;
    const auto later = [&](const TelegraphShared& other) {
      Four k_to;
      bool never[4];
      displacements(other, other.row, quad, j, words, k_to, never);
      return k_to;
    };
    f(j, k.of, v, later(to).of...);
  }
}

template <bool kVelocity, class F, class... To>
__device__ inline void draw_groups(unsigned quad, F&& f, const PlanarShared& shared, const To&... to) {
  const PlanarRow<Scalar> row = shared.row;
  uint32_t words[4][4];
  draw_words(shared.stream, shared.block, quad, words);
  DK_UNROLL
  for (int half = 0; half < 2; ++half) {
    DK_UNROLL
    for (int two = 0; two < 4; two += 2) {  // two calls, two pairs, four elements
      const auto draw = [&](const PlanarRow<Scalar>& at, float k[4], float v[4]) {
        DK_UNROLL
        for (int i = 0; i < 2; ++i)
          planar_draw<Scalar>(at, planar_words<Scalar>(words[two + i][2 * half], words[two + i][2 * half + 1]),
                              k[2 * i], k[2 * i + 1], v[2 * i], v[2 * i + 1]);
      };
      float k[4], v[4];
      draw(row, k, v);
      const auto later = [&](const PlanarShared& other) {
        Four k_to, v_to;
        draw(other.row, k_to.of, v_to.of);
        return k_to;
      };
      f(2 * half + two / 2, k, v, later(to).of...);
    }
  }
}

// A group of four elements a call. The thread's calls are four apart, so that neighbouring threads write neighbouring
// groups.
template <bool kVelocity, class F, class... To>
__device__ inline void draw_groups(unsigned quad, F&& f, const QuadShared& shared, const To&... to) {
  const QuadRow<Scalar> row = shared.row;
  const RowStream stream = shared.stream;
  const uint64_t first = uint64_t(shared.block) * kCallsPerBlock;
  const uint32_t c1 = uint32_t(first >> 32) << 2 | kMainWords, call = uint32_t(first) + 16 * (quad / 4) + quad % 4;
#pragma unroll 1
  for (int j = 0; j < 4; ++j) {
    uint32_t words[1][4];
    philox<Scalar>(call + 4 * uint32_t(j), c1, stream.row_low, stream.row_high, stream.key, words);
    const QuadWords<Scalar> drawn = quad_words<Scalar>(words[0]);
    float k[4], v[4];
    quad_draw<Scalar>(row, drawn, k, v);
    const auto later = [&](const QuadShared& other) {
      Four k_to, v_to;
      quad_draw<Scalar>(other.row, drawn, k_to.of, v_to.of);
      return k_to;
    };
    f(j, k, v, later(to).of...);
  }
}

// Where a thread's first group lies in its block, and the others.
__device__ inline int place_of(const TelegraphShared&, unsigned quad, int j) { return 4 * int(quad % 4) + 16 * j; }
__device__ inline int place_of(const QuadShared&, unsigned quad, int j) { return 4 * int(quad % 4) + 16 * j; }
__device__ inline int place_of(const PlanarShared&, unsigned quad, int j) {
  return 8 * int(quad % 4) + 32 * (j / 2) + 4 * (j % 2);
}

// f(access, i, k, v), or with a second row f(access, i, k, v, k_to), for every group of four elements of a chunk, i the
// first one's place in it. A row whose time is out of range gives NaN.
template <bool kVelocity, class F, class Shared, class... To>
__device__ inline void for_each_draw(const Chunk& chunk, bool whole, F&& f, const Shared& shared, const To&... to) {
  const int length = length_of(chunk);
  const unsigned quads = unsigned(length + int(kBlock) - 1) / unsigned(kBlock) * 4;
  const auto each = [&](auto access_to) {
    for (unsigned quad = threadIdx.x; quad < quads; quad += kThreads) {
      const int64_t begin = quad / 4 * kBlock + place_of(shared, quad, 0);
      const int left = length - int(begin);
      draw_groups<kVelocity>(
          quad,
          [&](int j, const auto*... drawn) {
            const int further = place_of(shared, 0, j);
            if (further < left) f(access_to(left - further), begin + further, drawn...);
          },
          shared, to...);
    }
  };
  if (whole)
    each([](int) { return Whole<1>{}; });
  else
    each([](int count) { return Part{count}; });
}

DK_NAMESPACE_END
