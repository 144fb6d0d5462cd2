// f(t), f'(t), g(t), g'(t) of the bridge x_t = f(t) x_0 + K_{g(t)} for one row (docs/method.md, section 3).
#pragma once
#include <cmath>

#include "../kernels.h"
#include "../lanes/platform.h"

DK_NAMESPACE_BEGIN

struct BridgeRow {
  double f, df, g, dg;
};

DK_INLINE BridgeRow bridge_row(double t, FSchedule f_schedule, GSchedule g_schedule, double kappa) {
  constexpr double kHalfPi = 1.57079632679489661923;
  BridgeRow row;
  if (f_schedule == FSchedule::kLinear) {
    row.f = 1 - t, row.df = -1;
  } else if (f_schedule == FSchedule::kCosine) {
#if defined(__CUDA_ARCH__)  // without the reduction of huge angles, which would give every thread a stack
    row.f = cospi(0.5 * t), row.df = -kHalfPi * sinpi(0.5 * t);
#else
    row.f = t == 1 ? 0 : cos(kHalfPi * t), row.df = -kHalfPi * sin(kHalfPi * t);  // exactly 0 at t = 1
#endif
  } else {
    row.f = exp(-kappa * t), row.df = -kappa * row.f;
  }
  if (g_schedule == GSchedule::kLinear) {
    row.g = t, row.dg = 1;
  } else {
    row.g = t * t, row.dg = 2 * t;
  }
  return row;
}

DK_NAMESPACE_END
