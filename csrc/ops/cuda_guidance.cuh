// CUDA: the speed limit on a group of four elements: of each coordinate, or of each of the two pairs.
#pragma once
#include "cuda_common.cuh"
#include "guidance.h"

DK_NAMESPACE_BEGIN

template <bool kPairs>
__device__ inline void limit_group(float u[4], float max_speed) {
  if (kPairs) {
    limit_pair<Scalar>(u[0], u[1], max_speed);
    limit_pair<Scalar>(u[2], u[3], max_speed);
  } else {
    DK_UNROLL
    for (int n = 0; n < 4; ++n) u[n] = limit_coordinate<Scalar>(u[n], max_speed);
  }
}

DK_NAMESPACE_END
