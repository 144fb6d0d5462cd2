// The quad Kac process: a particle in four dimensions keeps speed c and takes a fresh direction at rate a
// (docs/method.md, section 4). With lambda = a t and s = |K|^2 / (c t)^2,
//   P(turned, |K|^2 > s (c t)^2) = e^-E - e^-lambda,   E = lambda s^2 + q - log1p(q),   q = lambda s (1 - s);
//   v = K / (2 t) (z + 3) / (z + 2),   z = lambda (1 - s);   on the sphere |K| = c t, which keeps e^-lambda, |v| = c.
#pragma once
#include "../planar/elementary.h"
#include "../random/philox.h"
#include "../row.h"

DK_NAMESPACE_BEGIN

// Where the solution for s begins: tools/fit_quad.py.
constexpr float kStart0 = 0.367245495f, kStart1 = 0.117480993f, kStart2 = 0.0187859815f, kStart3 = -0.120984077f;
constexpr float kStart4 = -0.00134694227f, kStart5 = 0.00573619828f;
constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // ln 2 in two parts, the first of 9 bits

// One row (Scalar), or one on each lane.
template <class V>
struct QuadRow {
  typename V::F radius, lambda, inverse_lambda, c;
  typename V::F g, inverse_g;  // 2 / (lambda + 2), lambda + 2
  typename V::F start[3];
};

template <class V>
DK_INLINE QuadRow<V> quad_row(const typename V::D t[V::kDoubles], double a, double c) {
  using F = typename V::F;
  typename V::D exact[V::kDoubles], lambda[V::kDoubles], inverse[V::kDoubles];
  DK_UNROLL
  for (int i = 0; i < V::kDoubles; ++i) {
    exact[i] = t[i] * V::double_splat(c);
    lambda[i] = t[i] * V::double_splat(a);
    inverse[i] = V::double_splat(1.0) / lambda[i];
  }
  QuadRow<V> row;
  row.radius = V::floats(exact), row.lambda = V::floats(lambda), row.inverse_lambda = V::floats(inverse);
  row.c = V::splat(float(c));
  row.inverse_g = row.lambda + V::splat(2.f);
  row.g = V::splat(2.f) / row.inverse_g;
  const F turned = V::splat(1.f) - row.g;
  row.start[0] = turned * V::fma(V::splat(kStart1), row.g, V::splat(kStart0));
  row.start[1] = turned * V::fma(V::splat(kStart3), row.g, V::splat(kStart2));
  row.start[2] = turned * V::fma(V::splat(kStart5), row.g, V::splat(kStart4));
  return row;
}

DK_INLINE QuadRow<Scalar> quad_row(double t, double a, double c) { return quad_row<Scalar>(&t, a, c); }

template <class V>
DK_INLINE QuadRow<V> splat_row(const QuadRow<Scalar>& row) {
  return {V::splat(row.radius),
          V::splat(row.lambda),
          V::splat(row.inverse_lambda),
          V::splat(row.c),
          V::splat(row.g),
          V::splat(row.inverse_g),
          {V::splat(row.start[0]), V::splat(row.start[1]), V::splat(row.start[2])}};
}

// q - log1p(q) for q >= 0, without cancellation. With 1 + q = 2^k (1 + r), r close to 0, it is
// q (1 - 2^-k) + (1 - 2^-k) - k ln 2 and what log1p(r) lacks of r.
template <class V>
DK_INLINE typename V::F less_log1p(typename V::F q) {
  using F = typename V::F;
  using U = typename V::U;
  const F one = V::splat(1.f);
  const U k = V::template shift_right<23>(V::sub_bits(V::bits(one + q), V::splat_bits(0x3f3504f3u)));
  const F power = V::from_bits(V::sub_bits(V::splat_bits(0x3f800000u), V::template shift_left<23>(k)));
  const F part = one - power, exponent = V::signed_to_float(k);
  const F r = V::fma(q, power, V::splat(0.f) - part);
  F p = V::fma(V::splat(kLog7), r, V::splat(kLog6));
  p = V::fma(p, r, V::splat(kLog5));
  p = V::fma(p, r, V::splat(kLog4));
  p = V::fma(p, r, V::splat(kLog3));
  p = V::fma(p, r, V::splat(kLog2));
  p = V::fma(p, r, V::splat(kLog1));
  p = V::fma(p, r, V::splat(kLog0));
  F whole = V::fma(q, part, V::fma(exponent, V::splat(-kLn2High), part));  // the inner sum is exact
  whole = V::fma(exponent, V::splat(-kLn2Low), whole);
  return V::fma(r * r, V::fma(V::splat(0.f) - r, p, V::splat(.5f)), whole);
}

// One of Halley's steps towards the s at which h(s) = E: each cubes the relative error.
template <class V>
DK_INLINE typename V::F quad_step(const QuadRow<V>& row, typename V::F s, typename V::F e) {
  using F = typename V::F;
  const F y = row.lambda * s, rest = V::splat(1.f) - s, q = y * rest;
  const F z2 = V::fma(row.lambda, rest, V::splat(2.f));  // z + 2
  const F f = V::fma(y, s, less_log1p<V>(q)) - e, half = V::splat(.5f) * f;
  const F curved = V::fma(V::splat(-2.f), q, row.inverse_g);  // s^2 h'' (1 + q)^2 / (y s), h' = dh/ds
  const F slope = (y * z2) * (s * z2);                        // s h' (1 + q) (z + 2)
  const F step = V::divide_normal(f * z2 * (V::splat(1.f) + q), V::fma(V::splat(0.f) - half, curved, slope));
  return V::fma(V::splat(0.f) - s, step, s);
}

// What the four words of a call say of a group, whatever its row's time is: a direction, and E. Word 0 is for the
// radius, 1 for the share of the first two coordinates in it, 2 for an angle in their plane and 3 for one in that of
// the others.
template <class V>
struct QuadWords {
  typename V::F unit[4], minus_log;
};

template <class V>
DK_INLINE QuadWords<V> quad_words(const typename V::U word[4]) {
  using F = typename V::F;
  QuadWords<V> words;
  words.minus_log = minus_log_uniform<V>(word[0]);
  // U = (word + 1/2) / 2^32 is the square of a cosine, 1 - U of the sine; the smaller of the two is exact to rounding.
  const typename V::M upper = V::negative(word[1]);
  const typename V::U bits = V::select_bits(upper, V::bxor(word[1], V::splat_bits(0xffffffffu)), word[1]);
  const F least = V::fma(V::signed_to_float(bits), V::splat(0x1p-32f), V::splat(0x1p-33f));
  const F small = V::sqrt_normal(least), large = V::sqrt_normal(V::splat(1.f) - least);
  const F first = V::select(upper, large, small), second = V::select(upper, small, large);
  direction<V>(word[2], words.unit[0], words.unit[1]);
  direction<V>(word[3], words.unit[2], words.unit[3]);
  DK_UNROLL
  for (int i = 0; i < 4; ++i) words.unit[i] = (i < 2 ? first : second) * words.unit[i];
  return words;
}

// The displacement k of four coordinates and their velocity v.
template <class V>
DK_INLINE void quad_draw(const QuadRow<V>& row, const QuadWords<V>& words, typename V::F k[4], typename V::F v[4]) {
  using F = typename V::F;
  const F one = V::splat(1.f), e = words.minus_log;
  const F share = V::min(e * row.inverse_lambda, one);  // 1 on the sphere, whatever lambda is
  const typename V::M turned = V::less(e, row.lambda);
  const F p = V::sqrt_normal(share * row.g), scaled = p * row.inverse_g;
  F s = V::fma(V::fma(row.start[2], scaled, row.start[1]), scaled, row.start[0]);
  s = V::min(V::fma(p, s * scaled, p), one);
  s = V::min(quad_step<V>(row, s, e), one);
  s = V::min(quad_step<V>(row, s, e), one);
  s = V::select(turned, s, one);
  const F z2 = V::fma(row.lambda, one - s, V::splat(2.f)), rho = V::sqrt_normal(s), half_c = V::splat(.5f) * row.c;
  const F inside = (half_c * rho) * (one + V::divide_normal(one, z2));
  const F radius = row.radius * rho, speed = V::select(turned, inside, row.c);
  DK_UNROLL
  for (int i = 0; i < 4; ++i) k[i] = radius * words.unit[i], v[i] = speed * words.unit[i];
}

// The velocity at a given displacement.
struct QuadVelocityRow {
  LightCone cone;
  float square, square_rest;  // (c t)^2 in scaled units, in two floats
  float lambda_per_square;    // lambda / (c t)^2: z is so many times (c t)^2 - |x|^2
  float on_sphere;            // |x|^2 from which x counts as on the sphere: within the rounding of its type
  float half_rate;            // c / (2 c t), in scaled units
  float c;
};

DK_INLINE QuadVelocityRow quad_velocity_row(double t, double a, double c, ConeRounding rounding) {
  QuadVelocityRow row;
  row.cone = light_cone(t, c);
  const double scaled = row.cone.exact * double(row.cone.scale), square = scaled * scaled;
  row.square = float(square);
  row.square_rest = float(square - double(row.square));
  const double least = scaled > 0x1p-60 ? scaled : 0x1p-60;  // a radius of 0: 0 stays 0
  row.lambda_per_square = float(a * t / (least * least));
  const float edge = row.cone.scaled * (1.f - rounding.relative) - rounding.spacing(row.cone);
  row.on_sphere = edge > 0 ? edge * edge : 0.f;
  row.half_rate = float(0.5 * c / least);
  row.c = float(c);
  return row;
}

// Returns |x|^2 in scaled units.
template <class V>
DK_INLINE typename V::F quad_velocity(const QuadVelocityRow& row, const typename V::F x[4], typename V::F v[4]) {
  using F = typename V::F;
  const F zero = V::splat(0.f), one = V::splat(1.f);
  // (c t)^2 - |x|^2 with every rounding error put back: in units of (c t)^2 / lambda it decides between 3/2 and 1.
  F scaled[4], rest = V::splat(row.square), lost = V::splat(row.square_rest), size2 = zero;
  DK_UNROLL
  for (int i = 0; i < 4; ++i) {
    scaled[i] = x[i] * V::splat(row.cone.scale);
    const F square = scaled[i] * scaled[i], less = rest - square;
    lost = lost + (((rest - less) - square) - V::fma(scaled[i], scaled[i], zero - square));
    rest = less;
    size2 = size2 + square;
  }
  const F z = V::splat(row.lambda_per_square) * V::max(rest + lost, zero);
  const F inside = V::splat(row.half_rate) * (one + V::divide_normal(one, z + V::splat(2.f)));
  // Where the radius is 0, so is x.
  const F outside = V::splat(row.c) / V::max(V::splat(0x1p-60f), V::sqrt(size2));  // NaN stays NaN
  const F factor = V::select(V::less(size2, V::splat(row.on_sphere)), inside, outside);
  DK_UNROLL
  for (int i = 0; i < 4; ++i) v[i] = factor * scaled[i];
  return size2;
}

DK_NAMESPACE_END
