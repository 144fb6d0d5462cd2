// CUDA: the speed limit on neighbouring elements: of each coordinate, or of each pair.
#pragma once
#include "cuda_common.cuh"
#include "guidance.h"

DK_NAMESPACE_BEGIN

template <bool kPairs, int kCount>
__device__ inline void limit(float (&u)[kCount], float max_speed) {
  if (kPairs) {
    DK_UNROLL
    for (int n = 0; n < kCount; n += 2) limit_pair<Scalar>(u[n], u[n + 1], max_speed);
  } else if (max_speed != INFINITY) {
    DK_UNROLL
    for (int n = 0; n < kCount; ++n) u[n] = limit_coordinate<Scalar>(u[n], max_speed);
  }
}

DK_NAMESPACE_END
