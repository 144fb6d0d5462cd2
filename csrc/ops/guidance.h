// Classifier-free guidance of velocities, u = u_cond + w (u_cond - u_uncond), and the optional speed limit: of each
// coordinate (telegraph), each pair (planar) or each group of four (quad). Shared by guided_velocity and guided_step.
// NaN stays NaN.
#pragma once
#include <cmath>
#include <type_traits>

#include "../lanes/lanes.h"

DK_NAMESPACE_BEGIN

template <class V>
DK_INLINE typename V::F guided(typename V::F u_cond, typename V::F u_uncond, float w) {
  return V::fma(V::splat(w), u_cond - u_uncond, u_cond);
}

// Calls f with the number of neighbours that the limit takes together, as a constant: 1, 2 or 4. Where there is no
// limit, coordinates one by one give the same.
template <class F>
inline auto with_group(const SpeedLimit& limit, F&& f) {
  if (float(limit.most) == INFINITY) return f(std::integral_constant<int, 1>{});
  switch (limit.process) {
    case Process::kTelegraph:
      return f(std::integral_constant<int, 1>{});
    case Process::kPlanar:
      return f(std::integral_constant<int, 2>{});
    case Process::kQuad:
      return f(std::integral_constant<int, 4>{});
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
  const F large = V::max(ax, ay);
  const F ratio = V::min(ay, ax) / large;  // in this order the speed is NaN where either is: then neither is limited
  const F speed = large * quarter * V::sqrt(V::fma(ratio, ratio, V::splat(1.f)));
  const F top = V::splat(max_speed * 0.25f);
  const typename V::M fast = V::less(top, speed);
  const F factor = top / speed;
  x = V::select(fast, with_sign<V>(ax * factor, V::bits(x)), x);
  y = V::select(fast, with_sign<V>(ay * factor, V::bits(y)), y);
}

template <class V>
DK_INLINE void limit_four(typename V::F u[4], float max_speed) {
  using F = typename V::F;
  // As of a pair: in quarters, of components that are at most the largest number.
  const F most = V::splat(0x1.fffffep127f);
  F size[4];
  DK_UNROLL
  for (int i = 0; i < 4; ++i) size[i] = V::min(most, V::abs(u[i]));
  const F large = V::max(V::max(size[0], size[1]), V::max(size[2], size[3]));
  F sum = V::splat(0.f);
  DK_UNROLL
  for (int i = 0; i < 4; ++i) {
    const F ratio = size[i] / large;
    sum = V::fma(ratio, ratio, sum);
  }
  const F speed = large * V::splat(0.25f) * V::sqrt(sum), top = V::splat(max_speed * 0.25f);
  const typename V::M fast = V::less(top, speed);
  const F factor = top / speed;
  DK_UNROLL
  for (int i = 0; i < 4; ++i) u[i] = V::select(fast, with_sign<V>(size[i] * factor, V::bits(u[i])), u[i]);
}

// n (1, 2 or 4) components that the limit takes together.
template <class V, int n>
DK_INLINE void limit_group(typename V::F* u, float max_speed) {
  if constexpr (n == 1) u[0] = limit_coordinate<V>(u[0], max_speed);
  if constexpr (n == 2) limit_pair<V>(u[0], u[1], max_speed);
  if constexpr (n == 4) limit_four<V>(u, max_speed);
}

DK_NAMESPACE_END
