// One sampling step of one element: guidance, then x_next = x - h ((1 + r) u - r u_prev) with r = h / (2 h_prev)
// (Adams-Bashforth 2 on a variable grid; r = 0 is Euler) (docs/method.md, eq. 11).
#pragma once
#include "guidance.h"

DK_NAMESPACE_BEGIN

struct StepRow {
  float w, c_now, c_prev;  // x_next = x - c_now u + c_prev u_prev

  // False too for h_prev = 0.
  bool is_finite() const { return std::isfinite(w) && std::isfinite(c_now) && std::isfinite(c_prev); }
};

DK_INLINE StepRow step_row(const GuidedStepArgs& args, int64_t row) {
  const double h = row_scalar(args.h, row);
  const double r = args.u_prev ? h / (2 * row_scalar(args.h_prev, row)) : 0;
  return {args.u_uncond ? float(row_scalar(args.w, row)) : 0.f, float(h * (1 + r)), float(h * r)};
}

template <class V>
DK_INLINE typename V::F stepped(typename V::F x, typename V::F u, typename V::F u_prev, const StepRow& row, bool ab2) {
  const typename V::F euler = V::fma(V::splat(-row.c_now), u, x);
  return ab2 ? V::fma(V::splat(row.c_prev), u_prev, euler) : euler;
}

DK_NAMESPACE_END
