// CPU: do the formulas cover what an op is given for a row? The kernels find out as they go. Where they fill a caller's
// tensors, which may be what they read, every row is asked before the first is written: a refused call changes nothing.
#pragma once
#include "../row.h"
#include "endpoint_loss.h"
#include "guided_step.h"
#include "schedules.h"

DK_NAMESPACE_BEGIN

DK_INLINE bool covers_row(const KacNoiseArgs& args, int64_t row) {
  return row_is_valid(row_time(args.t, row), args.kac.a, args.kac.c);
}

DK_INLINE bool covers_row(const KacPairArgs& args, int64_t row) {
  const auto covers = [&](const RowScalar& t) {
    return row_is_valid(age(row_time(t, row), args.g), args.kac.a, args.kac.c);
  };
  return covers(args.t) && (!args.x_to || covers(args.t_to));
}

DK_INLINE bool covers_row(const GuidedStepArgs& args, int64_t row) { return step_row(args, row).is_finite(); }

DK_INLINE bool covers_row(const EndpointLossArgs& args, int64_t row) { return loss_row(args, row).is_finite(); }

DK_NAMESPACE_END
