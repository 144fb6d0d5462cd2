// Classifier-free guidance of velocities, u = u_cond + w (u_cond - u_uncond), and the optional speed limit: of each
// coordinate (telegraph) or of each pair (planar). Shared by guided_velocity and guided_step. NaN stays NaN.
#pragma once
#include <cmath>

#include "../simd.h"

DK_NAMESPACE_BEGIN

template <class V>
DK_INLINE typename V::F guided(typename V::F u_cond, typename V::F u_uncond, float w) {
  return V::fma(V::splat(w), u_cond - u_uncond, u_cond);
}

template <class V>
DK_INLINE typename V::F limit_coordinate(typename V::F u, float max_speed) {
  const typename V::F top = V::splat(max_speed), bottom = V::splat(-max_speed);
  return V::select(V::less(top, u), top, V::select(V::less(u, bottom), bottom, u));
}

template <class V>
DK_INLINE void limit_pair(typename V::F& x, typename V::F& y, float max_speed) {
  using F = typename V::F;
  // |(x, y)| = large sqrt(1 + (small / large)^2): no square can overflow.
  const F ax = V::abs(x), ay = V::abs(y);
  const F large = V::max(ax, ay), ratio = V::min(ax, ay) / large;
  const F speed = large * V::sqrt(V::fma(ratio, ratio, V::splat(1.f)));
  const typename V::M fast = V::less(V::splat(max_speed), speed);
  const F factor = V::splat(max_speed) / speed;
  x = V::select(fast, x * factor, x);
  y = V::select(fast, y * factor, y);
}

DK_NAMESPACE_END
