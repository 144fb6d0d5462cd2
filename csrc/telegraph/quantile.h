// Telegraph sampler: one random word per element, through the row's quantile function (docs/method.md, section 5).
// |xi| sqrt(lambda + 1) is a smooth function of the conditional survival w' = P(|xi| > . | it turned): a polynomial of
// degree 6 for each octave of w', at 257 nodes in x = lambda / (lambda + 10) (tools/make_quantile_table.py). A row's
// coefficients are interpolated between four nodes.
#pragma once
#include "../random/philox.h"
#include "velocity.h"

namespace distillkac {

struct QuantileTable {
  const float* fast;       // [257][7][16]: w' >= 2^-16; the last index is (biased float32 exponent of w') & 15
  const float* deep;       // [257][32][7]: the 32 octaves below
  const float* by_octave;  // [257][16][8]: `fast` again, the coefficients of an octave together; in host memory only
};
constexpr int kQuantileNodes = 257, kQuantileFast = 7 * 16, kQuantileDeep = 32 * 7, kQuantileByOctave = 16 * 8;
QuantileTable quantile_table();               // host memory: telegraph/quantile_table.cpp
int quantile_table_cuda(QuantileTable* out);  // device memory: telegraph/quantile_table.cu; returns a cudaError_t

}  // namespace distillkac

DK_NAMESPACE_BEGIN

constexpr float kSmallestNear = 0x1p-8f;  // down to here one half of a lookup table serves: octaves 7..14
constexpr float kSmallestFast = 0x1p-16f;

// e^-x for x in [0, 708]; beyond, as at 708. Relative error 3e-16: Taylor's series to the 12th power of the rest after
// powers of two. Our own, so that every target draws the same atoms.
template <class V>
DK_INLINE typename V::D exp_of_minus(typename V::D x) {
  using D = typename V::D;
  constexpr double kInverseFactorials[] = {
      1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
      1.0 / 120,       1.0 / 24,       1.0 / 6,       1.0 / 2,      1.0,         1.0};
  const D y = V::double_min(x, V::double_splat(708.0)), magic = V::double_splat(0x1.8p52);
  const D shifted = V::double_fma(y, V::double_splat(-0x1.71547652b82fep0), magic), n = shifted - magic;  // -log2(e)
  D r = V::double_fma(n, V::double_splat(-0x1.62e42fefa39efp-1), V::double_splat(0.0) - y);  // ln 2 in two parts
  r = V::double_fma(n, V::double_splat(-0x1.abc9e3b39803fp-56), r);
  D p = V::double_splat(kInverseFactorials[0]);
  DK_UNROLL
  for (int i = 1; i < 13; ++i) p = V::double_fma(p, r, V::double_splat(kInverseFactorials[i]));
  return p * V::double_power_of_two(shifted);
}

constexpr float kSmallRow = 0.999f;  // P(no turn) above which a row is small: too few words are left for w'

// One row (Scalar), or one on each lane.
template <class V>
struct TelegraphRow {
  typename V::F radius;               // c t
  typename V::D p_atom[V::kDoubles];  // P(no turn) = e^-lambda
  typename V::U atom_words;           // of 2^31 words, the first floor(p_atom 2^31) belong to the atoms
  typename V::U rare_words;           // of those after, the first: next to the atoms, or w' < 2^-16; in a small row all
  typename V::F w_scale, w_shift;     // word -> w'
  typename V::U node;                 // the first of four nodes
  typename V::F weight[4];            // of the nodes: Lagrange's, times c t / sqrt(lambda + 1)
};

template <class V>
DK_INLINE TelegraphRow<V> telegraph_row(const typename V::D t[V::kDoubles], double a, double c) {
  using D = typename V::D;
  using F = typename V::F;
  // Counting words takes double precision; the rest is used in single precision anyway.
  TelegraphRow<V> row;
  D lambda[V::kDoubles], exact[V::kDoubles], whole[V::kDoubles], offset[V::kDoubles], turned[V::kDoubles];
  DK_UNROLL
  for (int i = 0; i < V::kDoubles; ++i) {
    lambda[i] = t[i] * V::double_splat(a);
    exact[i] = t[i] * V::double_splat(c);
    row.p_atom[i] = exp_of_minus<V>(lambda[i]);
    const D words = row.p_atom[i] * V::double_splat(2147483648.0);
    whole[i] = V::double_min(V::double_floor(words), V::double_splat(2147483647.0));
    offset[i] = (whole[i] + V::double_splat(0.5)) - words;
    turned[i] = V::double_splat(2147483648.0) - words;
  }
  const F one = V::splat(1.f), lambdas = V::floats(lambda), turned_words = V::max(V::floats(turned), one);
  row.radius = V::floats(exact);
  row.atom_words = V::integers(whole);
  row.w_scale = one / turned_words;
  row.w_shift = V::floats(offset) * row.w_scale;
  const typename V::M small = V::less(V::splat(kSmallRow), V::floats(row.p_atom));
  const F rare = V::fma(turned_words, V::splat(kSmallestFast), V::splat(2.f));  // no rounding brings the others below
  row.rare_words = V::select_bits(small, V::sub_bits(V::splat_bits(0x80000000u), row.atom_words), V::truncated(rare));
  constexpr float kLast = kQuantileNodes - 1;
  const F x = lambdas / (lambdas + V::splat(10.f)) * V::splat(kLast);
  row.node = V::truncated(V::min(V::max(x - one, V::splat(0.f)), V::splat(kLast - 3)));
  const F f0 = x - V::signed_to_float(row.node), f1 = f0 - one, f2 = f1 - one, f3 = f2 - one;
  const F unit = row.radius / V::sqrt(lambdas + one), near = f0 * f1 * unit, far = f2 * f3 * unit;
  row.weight[0] = f1 * far * V::splat(-1.f / 6);
  row.weight[1] = f0 * far * V::splat(0.5f);
  row.weight[2] = f3 * near * V::splat(-0.5f);
  row.weight[3] = f2 * near * V::splat(1.f / 6);
  return row;
}

DK_INLINE TelegraphRow<Scalar> telegraph_row(double t, double a, double c) { return telegraph_row<Scalar>(&t, a, c); }

DK_INLINE bool telegraph_is_small(const TelegraphRow<Scalar>& row) {
  return row.atom_words + row.rare_words == 0x80000000u;
}

// Every lane of the result is that row.
template <class V>
DK_INLINE TelegraphRow<V> splat_row(const TelegraphRow<Scalar>& row) {
  TelegraphRow<V> lanes;
  lanes.radius = V::splat(row.radius);
  lanes.atom_words = V::splat_bits(row.atom_words);
  lanes.rare_words = V::splat_bits(row.rare_words);
  lanes.w_scale = V::splat(row.w_scale);
  lanes.w_shift = V::splat(row.w_shift);
  return lanes;
}

// What stands at p in each of four neighbouring nodes, `stride` apart, interpolated.
template <class V>
DK_INLINE typename V::F between_nodes(const typename V::F weight[4], const float* p, int stride) {
  const typename V::F middle = V::fma(weight[1], V::load(p + stride), weight[2] * V::load(p + 2 * stride));
  return V::fma(weight[0], V::load(p), V::fma(weight[3], V::load(p + 3 * stride), middle));
}

// Coefficients [7][16] of the row, those from `first` on, one for each lane.
template <class V>
DK_INLINE typename V::F telegraph_coefficients(const TelegraphRow<Scalar>& row, const float* fast, int first) {
  const typename V::F weight[4] = {V::splat(row.weight[0]), V::splat(row.weight[1]), V::splat(row.weight[2]),
                                   V::splat(row.weight[3])};
  return between_nodes<V>(weight, fast + int64_t(row.node) * kQuantileFast + first, kQuantileFast);
}

// words[j] without an address: a GPU thread would need memory of its own for it.
DK_INLINE uint32_t word_at(const uint32_t words[4], int j) {
  return j < 2 ? (j == 0 ? words[0] : words[1]) : (j == 2 ? words[2] : words[3]);
}

// |K| and its atom flag for the rare words (about 1.5e-5 of them): the word that lies between the atoms and the rest,
// the tail w' < 2^-16, and all that turned in a small row. 32 more bits, double precision, the deep octaves.
DK_INLINE float telegraph_rare(const TelegraphRow<Scalar>& row, const QuantileTable& table, const RowStream& stream,
                               int64_t block, int lane, int j, uint32_t word, bool& atom) {
  const bool small = telegraph_is_small(row);
  uint32_t words[4], second[4] = {};
  stream.words<Scalar>(uint64_t(block), lane, kRareWords, words);
  if (small) stream.words<Scalar>(uint64_t(block), lane, kSecondWords, second);
  const uint32_t extra = word_at(words, j);
  const double u = (double(word & 0x7fffffffu) * 4294967296.0 + double(extra) + 0.5) * 0x1p-63, p_atom = *row.p_atom;
  atom = u < p_atom;
  if (atom) return row.radius;
  const double w = small ? (double(word_at(second, j)) * 4294967296.0 + double(extra) + 0.5) * 0x1p-64
                         : (u - p_atom) / (1.0 - p_atom);
  int exponent;
  double t = 2 * frexp(w, &exponent) - 1.5;
  int octave = -exponent;
  if (octave < 0) octave = 0, t = 0.5;     // w' rounded up to 1
  if (octave > 47) octave = 47, t = -0.5;  // P = 2^-48
  double s = 0;
  for (int k = 6; k >= 0; --k) {
    double coefficient = 0;
    for (int i = 0; i < 4; ++i) {
      const int64_t node = int64_t(row.node) + i;
      coefficient +=
          double(row.weight[i]) * double(octave < 16 ? table.fast[node * kQuantileFast + k * 16 + ((126 - octave) & 15)]
                                                     : table.deep[node * kQuantileDeep + (octave - 16) * 7 + k]);
    }
    s = s * t + coefficient;
  }
  return Scalar::min(float(s < 0 ? 0 : s), row.radius);
}

// The conditional survival w' of a word. `rare` words need telegraph_rare.
template <class V>
DK_INLINE typename V::F telegraph_survival(const TelegraphRow<V>& row, typename V::U word, typename V::M& atom,
                                           typename V::M& rare) {
  const typename V::U d = V::sub_bits(V::band(word, V::splat_bits(0x7fffffffu)), row.atom_words);
  atom = V::negative(d);
  rare = V::less_bits(d, row.rare_words);
  return V::fma(V::signed_to_float(d), row.w_scale, row.w_shift);
}

// |K| at survival w. coefficient(k, exponent): that of t^k, scaled, in the octave of w with this biased exponent.
template <class V, class Coefficient>
DK_INLINE typename V::F telegraph_magnitude(typename V::F w, typename V::M atom, typename V::F radius,
                                            Coefficient&& coefficient) {
  using F = typename V::F;
  using U = typename V::U;
  const U bits = V::bits(V::min(w, V::splat(0x1.fffffep-1f))), exponent = V::template shift_right<23>(bits);
  const F t =
      V::from_bits(V::bor(V::band(bits, V::splat_bits(0x7fffffu)), V::splat_bits(0x3f800000u))) - V::splat(1.5f);
  F s = coefficient(6, exponent);
  DK_UNROLL
  for (int k = 5; k >= 0; --k) s = V::fma(s, t, coefficient(k, exponent));
  return V::select(atom, radius, V::min(s, radius));
}

DK_NAMESPACE_END
