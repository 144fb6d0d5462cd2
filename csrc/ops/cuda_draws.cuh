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
  static constexpr int kResident = 5,
                       kResidentPair = 4;  // blocks on a multiprocessor, with a second row: registers for these
  static constexpr bool kHasRare = true;   // words that take another way
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
  static constexpr int kResident = 6, kResidentPair = 6;
  static constexpr bool kHasRare = false;
  PlanarRow<Scalar> row;
  alignas(16) RowStream stream;
  int64_t block;
};

struct QuadShared {
  static constexpr int kResident = 4, kResidentPair = 4;
  static constexpr bool kHasRare = false;
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

// The displacements of group j of a thread, from word j of each of its calls, and which of them never turned. Returns
// whether a word is rare: rare_displacements has that group then.
__device__ inline bool displacements(const TelegraphShared& shared, const TelegraphRow<Scalar>& row, int j,
                                     const uint32_t words[4][4], Four& k, bool atom[4]) {
  bool any_rare = false;
  DK_UNROLL
  for (int call = 0; call < 4; ++call) {
    bool rare;
    const float w = telegraph_survival<Scalar>(row, words[call][j], atom[call], rare);
    const float magnitude = magnitude_at(shared, fminf(w, 0x1.fffffep-1f), row.radius);
    k.of[call] = with_sign<Scalar>(magnitude, words[call][j]);
    any_rare |= rare;
  }
  return any_rare;
}

// The same of a group with rare words, drawn anew; an atom is infinite. Out of line, as double arithmetic takes
// registers.
static __device__ __noinline__ Four rare_displacements(const TelegraphShared* shared, unsigned quad, int j) {
  const RowStream stream = shared->stream;
  const int64_t block = shared->block + quad / 4;
  Four k{};
#pragma unroll 1
  for (int lane = 4 * int(quad % 4); lane < 4 * int(quad % 4) + 4; ++lane) {
    uint32_t words[4];
    stream.words<Scalar>(uint64_t(block), lane, kMainWords, words);
    const uint32_t word = word_at(words, j);
    bool atom, rare;
    const float w = telegraph_survival<Scalar>(shared->row, word, atom, rare);
    float magnitude = magnitude_at(*shared, fminf(w, 0x1.fffffep-1f), shared->row.radius);
    if (rare) magnitude = telegraph_rare(shared->row, shared->table, stream, block, lane, j, word, atom);
    k = {{k.of[1], k.of[2], k.of[3], with_sign<Scalar>(atom ? INFINITY : magnitude, word)}};
  }
  return k;
}

// Which displacements are atoms, that now have c t.
__device__ inline void take_atoms(float radius, Four& k, bool atom[4]) {
  DK_UNROLL
  for (int call = 0; call < 4; ++call) {
    atom[call] = Scalar::abs(k.of[call]) == INFINITY;
    if (atom[call]) k.of[call] = with_sign<Scalar>(radius, bit_cast<uint32_t>(k.of[call]));
  }
}

template <bool kVelocity>
__device__ inline Four velocities(const Four& k, const bool atom[4], const TelegraphVelocityRow& row) {
  Four v{};
  DK_UNROLL
  for (int call = 0; kVelocity && call < 4; ++call)
    v.of[call] = telegraph_velocity<Scalar>(k.of[call], atom[call], row);
  return v;
}

// f(j, k, v, k_to) for the four groups of a thread, which lie at place_of: four displacements and velocities, and with a
// second row (the same at another time) its displacements. quad: which four calls of the chunk are the thread's. Returns
// the groups that are left to draw_later, a bit for each.
template <bool kVelocity, class F, class... To>
__device__ inline unsigned draw_groups(unsigned quad, F&& f, const TelegraphShared& shared, const To&... to) {
  const TelegraphRow<Scalar> row = shared.row;  // copies: for all that the compiler knows, f writes over what is shared
  const TelegraphVelocityRow velocity = shared.velocity;
  uint32_t words[4][4];
  draw_words(shared.stream, shared.block, quad, words);
  unsigned later = 0;
  DK_UNROLL
  for (int j = 0; j < 4; ++j) {
    Four k, k_to;
    bool atom[4], atom_to[4];
    bool rare = displacements(shared, row, j, words, k, atom);
    ((rare |= displacements(to, to.row, j, words, k_to, atom_to)), ...);
    if (rare)
      later |= 1u << j;
    else
      f(j, k, velocities<kVelocity>(k, atom, velocity), k_to);
  }
  return later;
}

static_assert(4 * kMostDrawn / kCudaChunk < 32);
// Those groups of a thread's quads, four bits for each: f(quad, j, k, v, k_to).
template <bool kVelocity, class F, class... To>
__device__ inline void draw_later(unsigned later, F&& f, const TelegraphShared& shared, const To&... to) {
#pragma unroll 1
  for (int group = 0; later >> group; ++group) {
    if ((later >> group & 1) == 0) continue;
    const int j = group % 4;
    const unsigned quad = threadIdx.x + unsigned(group / 4) * kThreads;
    Four k = rare_displacements(&shared, quad, j), k_to;
    bool atom[4], atom_to[4];
    take_atoms(shared.row.radius, k, atom);
    ((k_to = rare_displacements(&to, quad, j), take_atoms(to.row.radius, k_to, atom_to)), ...);
    f(quad, j, k, velocities<kVelocity>(k, atom, shared.velocity), k_to);
  }
}

template <bool kVelocity, class F, class... To>
__device__ inline unsigned draw_groups(unsigned quad, F&& f, const PlanarShared& shared, const To&... to) {
  const PlanarRow<Scalar> row = shared.row;
  uint32_t words[4][4];
  draw_words(shared.stream, shared.block, quad, words);
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
__device__ inline int place_of(const TelegraphShared&, unsigned quad, int j) { return 4 * int(quad % 4) + 16 * j; }
__device__ inline int place_of(const QuadShared&, unsigned quad, int j) { return 4 * int(quad % 4) + 16 * j; }
__device__ inline int place_of(const PlanarShared&, unsigned quad, int j) {
  return 8 * int(quad % 4) + 32 * (j / 2) + 4 * (j % 2);
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
