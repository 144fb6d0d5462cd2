// CUDA: the telegraph process's draws. The block shares the quantile coefficients of its row. Rare words, which take
// double arithmetic, are drawn after all others: a call among them would take registers from every thread's loop.
#pragma once
#include "../telegraph/quantile.h"
#include "cuda_words.cuh"

DK_NAMESPACE_BEGIN

// A row of the lookup table: its octave's polynomial, and what brings a w' of that octave into [1, 2).
struct alignas(16) Coefficients {
  float of[4];
};

struct TelegraphShared {
  // Blocks that a multiprocessor holds at a time, of noise and of pairs: more of them hide more waiting, and leave each
  // thread fewer registers. These are the most whose loop keeps all in registers.
  static constexpr int kResident = 5, kResidentPair = 4;
  static constexpr bool kHasRare = true;  // words that draw_later has
  TelegraphRow<Scalar> row;
  TelegraphVelocityRow velocity;
  alignas(16) RowStream stream;
  QuantileTable table;  // this and the next for rare_displacements
  int64_t block;        // where the chunk begins
  // Coefficients 0 to 3, and 4 to 6 with the scale, by the low five bits of the exponent of w': rows 15 to 30 are the
  // octaves down to 2^-16, row 14 is c t for all below. Two reads of 16 bytes; banks clash from the eighth octave on.
  Coefficients low[32], high[32];
};

constexpr int kAtomRow = 14;
constexpr float kBelowFast = 0x1p-17f;  // in row 14

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

// f(j, k, v, k_to) for the four groups of a thread, which lie at place_of: four displacements and velocities, and with
// a second row (the same at another time) its displacements. quad: which four calls of the chunk are the thread's.
// Returns the groups that are left to draw_later, a bit for each.
template <bool kVelocity, class F, class... To>
__device__ inline unsigned draw_groups(unsigned quad, F&& f, const TelegraphShared& shared, const To&... to) {
  const TelegraphRow<Scalar> row = shared.row;  // copies: for all that the compiler knows, f writes over what is shared
  const TelegraphVelocityRow velocity = shared.velocity;
  uint32_t words[4][4];
  draw_words(shared.stream, shared.block, [&](int i) { return 4 * quad + unsigned(i); }, words);
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

// Where a thread's first group lies in its block, and the others.
__device__ inline int place_of(const TelegraphShared&, unsigned quad, int j) { return 4 * int(quad % 4) + 16 * j; }

DK_NAMESPACE_END
