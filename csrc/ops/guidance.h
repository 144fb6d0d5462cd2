// Classifier-free guidance of velocities, u = u_cond + w (u_cond - u_uncond), and the optional speed limit: of each
// coordinate (telegraph) or of each pair (planar). Shared by guided_velocity and guided_step. NaN stays NaN.
#pragma once
#include <cmath>

#include "../lanes/lanes.h"

DK_NAMESPACE_BEGIN

template <class V>
DK_INLINE typename V::F guided(typename V::F u_cond, typename V::F u_uncond, float w) {
  return V::fma(V::splat(w), u_cond - u_uncond, u_cond);
}

// Does the limit take pairs together? Where there is none, coordinates one by one give the same.
inline bool limits_pairs(const SpeedLimit& limit) {
  switch (limit.process) {
    case Process::kTelegraph:
      return false;
    case Process::kPlanar:
      return float(limit.most) != INFINITY;
  }
  DK_UNREACHABLE();
}

template <class V>
DK_INLINE typename V::F limit_coordinate(typename V::F u, float max_speed) {
  const typename V::F top = V::splat(max_speed), bottom = V::splat(-max_speed);
  return V::select(V::less(top, u), top, V::select(V::less(u, bottom), bottom, u));
}

template <class V>
DK_INLINE void limit_pair(typename V::F& x, typename V::F& y, float max_speed) {
  using F = typename V::F;
  // |(x, y)| = large sqrt(1 + (small / large)^2): no square can overflow. In quarters, so that |(x, y)| cannot either,
  // of components that are at most the largest number: what overflowed in the sum before keeps its direction.
  const F most = V::splat(0x1.fffffep127f), quarter = V::splat(0.25f);
  const F ax = V::min(most, V::abs(x)), ay = V::min(most, V::abs(y));
  const F large = V::max(ax, ay), ratio = V::min(ax, ay) / large;
  const F speed = large * quarter * V::sqrt(V::fma(ratio, ratio, V::splat(1.f)));
  const F top = V::splat(max_speed * 0.25f);
  const typename V::M fast = V::less(top, speed);
  const F factor = top / speed;
  x = V::select(fast, with_sign<V>(ax * factor, V::bits(x)), x);
  y = V::select(fast, with_sign<V>(ay * factor, V::bits(y)), y);
}

DK_NAMESPACE_END
