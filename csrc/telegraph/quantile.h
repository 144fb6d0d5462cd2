// Telegraph sampler: one random word per element, through the row's quantile function (docs/method.md, section 5).
// |xi| sqrt(lambda + 1) is a smooth function of the conditional survival w' = P(|xi| > . | it turned): a polynomial of
// degree 6 for each octave of w', at 257 nodes in x = lambda / (lambda + 10) (tools/make_quantile_table.py). A row's
// coefficients are interpolated between four nodes.
#pragma once
#include "../random/philox.h"
#include "velocity.h"

namespace distillkac {

struct QuantileTable {
  const float* fast;  // [257][7][16]: w' >= 2^-16; the last index is (biased float32 exponent of w') & 15
  const float* deep;  // [257][32][7]: the 32 octaves below
};
constexpr int kQuantileNodes = 257, kQuantileFast = 7 * 16, kQuantileDeep = 32 * 7;
QuantileTable quantile_table();               // host memory: telegraph/quantile_table.cpp
int quantile_table_cuda(QuantileTable* out);  // device memory: telegraph/quantile_table.cu; returns a cudaError_t

}  // namespace distillkac

DK_NAMESPACE_BEGIN

constexpr float kSmallestNear = 0x1p-8f;  // down to here one half of a lookup table serves: octaves 7..14
constexpr float kSmallestFast = 0x1p-16f;

struct TelegraphRow {
  TelegraphVelocityRow velocity;
  uint32_t atom_words;  // of 2^31 words, the first floor(e^-lambda 2^31) belong to the atoms
  uint32_t rare_words;  // of the words after the atoms', the first ones: next to the atoms, or w' < 2^-16
  float w_scale, w_shift;
  bool small;  // lambda < 1/1024: too few words are left for w', which takes a second one; all are rare
  double lambda, p_atom;
  int node;  // the first of four nodes
  double lagrange[4];
  double unit;  // c t / sqrt(lambda + 1)
};

DK_INLINE TelegraphRow telegraph_row(double t, double a, double c) {
  TelegraphRow row;
  row.velocity = telegraph_velocity_row(t, a, c);
  const double lambda = a * t, p_atom = exp(-lambda), words = p_atom * 2147483648.0;
  double whole = floor(words);
  if (whole > 2147483647.0) whole = 2147483647.0;
  row.lambda = lambda;
  row.p_atom = p_atom;
  row.atom_words = uint32_t(whole);
  row.small = lambda < 1.0 / 1024;
  const double turned = 2147483648.0 - words, scale = turned > 0 ? 1.0 / turned : 0.0;
  row.w_scale = float(scale);
  row.w_shift = float((0.5 - (words - whole)) * scale);
  row.rare_words = row.small ? 0x80000000u - row.atom_words
                             : uint32_t(double(kSmallestFast) * turned) + 2;  // no rounding brings the others below
  const int last = kQuantileNodes - 1;
  const double x = lambda / (lambda + 10) * last;
  int node = int(x) - 1;
  node = node < 0 ? 0 : node > last - 3 ? last - 3 : node;
  const double f = x - node;
  row.node = node;
  const double f01 = f * (f - 1), f23 = (f - 2) * (f - 3);
  row.lagrange[0] = (f - 1) * f23 * (-1.0 / 6);
  row.lagrange[1] = f * f23 * 0.5;
  row.lagrange[2] = f01 * (f - 3) * -0.5;
  row.lagrange[3] = f01 * (f - 2) * (1.0 / 6);
  row.unit = row.velocity.cone.exact / sqrt(lambda + 1);
  return row;
}

// Coefficients [7][16] of the row, those from `first` on, one for each lane.
template <class V>
DK_INLINE typename V::F telegraph_coefficients(const TelegraphRow& row, const float* fast, int first) {
  typename V::F weight[4];
  DK_UNROLL
  for (int j = 0; j < 4; ++j) weight[j] = V::splat(float(row.lagrange[j] * row.unit));
  const float* p = fast + int64_t(row.node) * kQuantileFast + first;
  const typename V::F middle =
      V::fma(weight[1], V::load(p + kQuantileFast), weight[2] * V::load(p + 2 * kQuantileFast));
  return V::fma(weight[0], V::load(p), V::fma(weight[3], V::load(p + 3 * kQuantileFast), middle));
}

// words[j] without an address: a GPU thread would need memory of its own for it.
DK_INLINE uint32_t word_at(const uint32_t words[4], int j) {
  return j < 2 ? (j == 0 ? words[0] : words[1]) : (j == 2 ? words[2] : words[3]);
}

// |K| and its atom flag for the rare words (about 1.5e-5 of them): the word that lies between the atoms and the rest,
// the tail w' < 2^-16, and all that turned in a small row. 32 more bits, double precision, the deep octaves.
DK_INLINE float telegraph_rare(const TelegraphRow& row, const QuantileTable& table, const RowStream& stream,
                               int64_t block, int lane, int j, uint32_t word, bool& atom) {
  uint32_t words[4], second[4] = {};
  stream.words<Scalar>(uint64_t(block), lane, kRareWords, words);
  if (row.small) stream.words<Scalar>(uint64_t(block), lane, kSecondWords, second);
  const uint32_t extra = word_at(words, j);
  const double u = (double(word & 0x7fffffffu) * 4294967296.0 + double(extra) + 0.5) * 0x1p-63;
  atom = u < row.p_atom;
  const LightCone& cone = row.velocity.cone;
  if (atom) return cone.radius;
  const double w = row.small ? (double(word_at(second, j)) * 4294967296.0 + double(extra) + 0.5) * 0x1p-64
                             : (u - row.p_atom) / -expm1(-row.lambda);
  int exponent;
  double t = 2 * frexp(w, &exponent) - 1.5;
  int octave = -exponent;
  if (octave < 0) octave = 0, t = 0.5;     // w' rounded up to 1
  if (octave > 47) octave = 47, t = -0.5;  // P = 2^-48
  double s = 0;
  for (int k = 6; k >= 0; --k) {
    double coefficient = 0;
    for (int j = 0; j < 4; ++j) {
      const int64_t node = row.node + j;
      coefficient +=
          row.lagrange[j] * double(octave < 16 ? table.fast[node * kQuantileFast + k * 16 + ((126 - octave) & 15)]
                                               : table.deep[node * kQuantileDeep + (octave - 16) * 7 + k]);
    }
    s = s * t + coefficient;
  }
  s *= row.unit;
  return float(s < 0 ? 0 : s < cone.exact ? s : cone.exact);
}

// The conditional survival w' of a word. `rare` words need telegraph_rare.
template <class V>
DK_INLINE typename V::F telegraph_survival(const TelegraphRow& row, typename V::U word, typename V::M& atom,
                                           typename V::M& rare) {
  const typename V::U d = V::sub_bits(V::band(word, V::splat_bits(0x7fffffffu)), V::splat_bits(row.atom_words));
  atom = V::negative(d);
  rare = V::less_bits(d, V::splat_bits(row.rare_words));
  return V::fma(V::signed_to_float(d), V::splat(row.w_scale), V::splat(row.w_shift));
}

// |K| at survival w. `coefficients` are the row's, as seven lookup tables; near: no lane needs w < kSmallestNear.
template <class V>
DK_INLINE typename V::F telegraph_magnitude(const TelegraphRow& row, const typename V::Table coefficients[7],
                                            typename V::F w, typename V::M atom, bool near) {
  using F = typename V::F;
  using U = typename V::U;
  const U bits = V::bits(V::min(w, V::splat(0x1.fffffep-1f))), octave = V::template shift_right<23>(bits);
  const F t =
      V::from_bits(V::bor(V::band(bits, V::splat_bits(0x7fffffu)), V::splat_bits(0x3f800000u))) - V::splat(1.5f);
  F s = V::lookup(coefficients[6], octave, near);
  DK_UNROLL
  for (int k = 5; k >= 0; --k) s = V::fma(s, t, V::lookup(coefficients[k], octave, near));
  const F radius = V::splat(row.velocity.cone.radius);
  return V::select(atom, radius, V::min(s, radius));
}

template <class V>
DK_INLINE typename V::F with_sign_of(typename V::F magnitude, typename V::U word) {
  return V::from_bits(V::bxor(V::bits(magnitude), V::band(word, V::splat_bits(0x80000000u))));
}

DK_NAMESPACE_END
