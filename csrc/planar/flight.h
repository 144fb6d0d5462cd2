// The planar Kac process: a particle in the plane keeps speed c and takes a fresh direction at rate a. Closed form
// (docs/method.md, section 4): with E = -log U and e = min(E / lambda, 1),
//   |K| = c t sqrt(e (2 - e)),   v = K / (t (2 - e));   e = 1 is the light circle, where |v| = c.
#pragma once
#include "../random/philox.h"
#include "../row.h"
#include "elementary.h"

DK_NAMESPACE_BEGIN

// One row (Scalar), or one on each lane.
template <class V>
struct PlanarRow {
  typename V::F radius, inverse_lambda, c;
};

template <class V>
DK_INLINE PlanarRow<V> planar_row(const typename V::D t[V::kDoubles], double a, double c) {
  typename V::D exact[V::kDoubles], inverse[V::kDoubles];
  DK_UNROLL
  for (int i = 0; i < V::kDoubles; ++i) {
    exact[i] = t[i] * V::double_splat(c);
    inverse[i] = V::double_splat(1.0) / (t[i] * V::double_splat(a));
  }
  return {V::floats(exact), V::floats(inverse), V::splat(float(c))};
}

DK_INLINE PlanarRow<Scalar> planar_row(double t, double a, double c) { return planar_row<Scalar>(&t, a, c); }

template <class V>
DK_INLINE PlanarRow<V> splat_row(const PlanarRow<Scalar>& row) {
  return {V::splat(row.radius), V::splat(row.inverse_lambda), V::splat(row.c)};
}

// What two words say of a pair, whatever its row's time is: a direction, and E.
template <class V>
struct PlanarWords {
  typename V::F cosine, sine, minus_log;
};

template <class V>
DK_INLINE PlanarWords<V> planar_words(typename V::U radius_word, typename V::U angle_word) {
  PlanarWords<V> words;
  direction<V>(angle_word, words.cosine, words.sine);
  words.minus_log = minus_log_uniform<V>(radius_word);
  return words;
}

// The displacement (x, y) of one pair and its velocity (vx, vy).
template <class V>
DK_INLINE void planar_draw(const PlanarRow<V>& row, const PlanarWords<V>& words, typename V::F& x, typename V::F& y,
                           typename V::F& vx, typename V::F& vy) {
  using F = typename V::F;
  const F e = V::min(words.minus_log * row.inverse_lambda, V::splat(1.f));
  const F q = V::splat(2.f) - e, rho = V::sqrt_normal(e * q);  // |K| / (c t); a product: 1 - sigma^2 would cancel
  const F r = row.radius * rho, speed = row.c * V::divide_normal(rho, q);
  x = r * words.cosine, y = r * words.sine;
  vx = speed * words.cosine, vy = speed * words.sine;
}

// The velocity at a given displacement: v = c (x, y) / (c t + s), s^2 = c^2 t^2 - x^2 - y^2.
struct PlanarVelocityRow {
  LightCone cone;
  float square, square_rest;  // (c t)^2 in scaled units, in two floats
  float c;
};

DK_INLINE PlanarVelocityRow planar_velocity_row(double t, double c) {
  PlanarVelocityRow row;
  row.cone = light_cone(t, c);
  const double scaled = row.cone.exact * double(row.cone.scale), square = scaled * scaled;
  row.square = float(square);
  row.square_rest = float(square - double(row.square));
  row.c = float(c);
  return row;
}

template <class V>
DK_INLINE void planar_velocity(const PlanarVelocityRow& row, typename V::F x, typename V::F y, typename V::F& vx,
                               typename V::F& vy) {
  using F = typename V::F;
  const F xs = x * V::splat(row.cone.scale), ys = y * V::splat(row.cone.scale);
  const F ax = V::abs(xs), ay = V::abs(ys), large = V::max(ax, ay);
  const F small = V::min(ay, ax);  // in this order one of the two is NaN where either coordinate is
  // s^2 with every rounding error put back: it is small near the light circle, and v has an infinite slope there.
  const F large2 = large * large, small2 = small * small, zero = V::splat(0.f);
  const F error = V::fma(large, large, zero - large2) + V::fma(small, small, zero - small2);
  const F square = V::splat(row.square), rest = square - large2;
  const F lost = (square - rest) - large2;  // what the difference was rounded by, if it was
  const F s2 = (rest - small2) + ((V::splat(row.square_rest) - error) + lost);
  const F inside = V::splat(row.cone.scaled) + V::sqrt(V::max(s2, zero));
  // On the circle, and a rounding outside it, |v| = c.
  // The least is for a radius of 0; c / divisor must not overflow. NaN stays NaN.
  const F divisor = V::max(V::splat(0x1p-60f), V::select(V::less(zero, s2), inside, V::sqrt(large2 + small2)));
  const F factor = V::splat(row.c) / divisor;
  vx = factor * xs, vy = factor * ys;
}

DK_NAMESPACE_END
