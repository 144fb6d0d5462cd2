// Velocity of the telegraph process at displacement x after time t (docs/method.md, eq. 4):
//   v = c lambda xi / (lambda + G(z)) = a x D / (lambda D + N),   G = N/D ~ z I0(z)/I1(z),
//   z^2 = (a/c)^2 (c^2 t^2 - x^2).
// The rationals come from tools/fit_velocity.py: relative error of v <= 3.3e-7 in float32 for lambda in [1e-4, 1e4].
#pragma once
#include "../row.h"

DK_NAMESPACE_BEGIN

// z^2 < 36: N, D of degree 3 in y = z^2.
constexpr float kN0 = 2.f, kN1 = 0.422876745f, kN2 = 0.0137690781f, kN3 = 7.63363423e-05f;
constexpr float kD1 = 0.086438708f, kD2 = 0.00128770107f, kD3 = 2.00177487e-06f;
// z^2 >= 36: G = z + 1/2 + (kC0 z^2 + kC1 z + kC2) / (z^2 (z + kE)).
constexpr float kC0 = 0.37499103f, kC1 = -0.51813364f, kC2 = -0.466396838f, kE = -2.3895874f;

constexpr float kLargeY = 36.f, kSmallLambda = 5.99f;  // y <= lambda^2 up to rounding

struct TelegraphVelocityRow {
  LightCone cone;
  float y_scale;  // (a/c)^2 in scaled units
  float a_scaled;
  float lambda;
  float c;
};

DK_INLINE TelegraphVelocityRow telegraph_velocity_row(double t, double a, double c) {
  TelegraphVelocityRow row;
  row.cone = light_cone(t, c);
  const double unscale = row.cone.unscale, ratio = a / c * unscale;
  row.y_scale = float(ratio * ratio);
  row.a_scaled = float(a * unscale);
  row.lambda = float(a * t);
  row.c = float(c);
  return row;
}

// `on_cone`: the particle never turned, and its velocity is +-c. v jumps there (a = 9, c = 3, t = .05: from .55 to 3),
// so the flag comes from the sampler where the draw is ours.
template <class V>
DK_INLINE typename V::F telegraph_velocity(typename V::F x, typename V::M on_cone, const TelegraphVelocityRow& row) {
  using F = typename V::F;
  const F xs = x * V::splat(row.cone.scale), ax = V::abs(xs), ct = V::splat(row.cone.scaled);
  const F gap =
      V::max((ct - ax) + V::splat(row.cone.rest), V::splat(0.f));  // c t - |x|, compensated: do not reassociate
  const F y = V::splat(row.y_scale) * (gap * (ct + ax));
  // Of the two forms a vector needs one where its lanes agree, and a row with lambda < 6 never the second.
  const auto small_y = [&](F& n, F& d) {
    n = V::fma(V::fma(V::fma(V::splat(kN3), y, V::splat(kN2)), y, V::splat(kN1)), y, V::splat(kN0));
    d = V::fma(V::fma(V::fma(V::splat(kD3), y, V::splat(kD2)), y, V::splat(kD1)), y, V::splat(1.f));
  };
  const auto large_y = [&](F& n, F& d) {
    const F z = V::sqrt_normal(y);
    d = y * (z + V::splat(kE));
    n = V::fma(z + V::splat(.5f), d, V::fma(V::fma(V::splat(kC0), z, V::splat(kC1)), z, V::splat(kC2)));
  };
  F n, d;
  if (row.lambda < kSmallLambda) {
    small_y(n, d);
  } else {
    large_y(n, d);
    const typename V::M small = V::less(y, V::splat(kLargeY));
    if (V::any(small)) {
      F n_small, d_small;
      small_y(n_small, d_small);
      n = V::select(small, n_small, n), d = V::select(small, d_small, d);
    }
  }
  // The quotient is 1 / (lambda + G) or less; the product of d with the rest would overflow at lambda = 1e9, c = 1e3.
  const F v = (V::splat(row.a_scaled) * xs) * V::divide_normal(d, V::fma(V::splat(row.lambda), d, n));
  return V::select(on_cone, with_sign<V>(V::splat(row.c), V::bits(x)), v);
}

DK_NAMESPACE_END
