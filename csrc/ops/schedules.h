// f(t), f'(t), g(t), g'(t) of the bridge x_t = f(t) x_0 + K_{g(t)} for one row (docs/method.md, section 3). A
// schedule that is named in kernels.h and has no formula here does not compile (-Werror=switch).
#pragma once
#include <cmath>

#include "../kernels.h"
#include "../lanes/platform.h"

DK_NAMESPACE_BEGIN

struct BridgeRow {
  double f, df, dg;
};

// g(t), the time of the process; NaN where t is below 0.
DK_INLINE double age(double t, GSchedule g_schedule) {
  double time = NAN;
  switch (g_schedule) {
    case GSchedule::kLinear:
      time = t;
      break;
    case GSchedule::kQuadratic:
      time = t * t;
      break;
  }
  return t >= 0 ? time : double(NAN);
}

DK_INLINE BridgeRow bridge_row(double t, FSchedule f_schedule, GSchedule g_schedule, double kappa) {
  constexpr double kHalfPi = 1.57079632679489661923;
  BridgeRow row = {NAN, NAN, NAN};
  switch (f_schedule) {
    case FSchedule::kLinear:
      row.f = 1 - t, row.df = -1;
      break;
    case FSchedule::kCosine:
#if defined(__CUDA_ARCH__)  // without the reduction of huge angles, which would give every thread a stack
      row.f = cospi(0.5 * t), row.df = -kHalfPi * sinpi(0.5 * t);
#else
      row.f = t == 1 ? 0 : cos(kHalfPi * t), row.df = -kHalfPi * sin(kHalfPi * t);  // exactly 0 at t = 1
#endif
      break;
    case FSchedule::kExp:
      row.f = exp(-kappa * t), row.df = -kappa * row.f;
      break;
  }
  switch (g_schedule) {
    case GSchedule::kLinear:
      row.dg = 1;
      break;
    case GSchedule::kQuadratic:
      row.dg = 2 * t;
      break;
  }
  return row;
}

DK_NAMESPACE_END
