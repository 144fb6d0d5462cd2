// CUDA: the speed limit on neighbouring elements: of each coordinate, of each pair, or of each four.
#pragma once
#include "cuda_common.cuh"
#include "guidance.h"

DK_NAMESPACE_BEGIN

template <int kGroup, int kCount>
__device__ inline void limit(float (&u)[kCount], float max_speed) {
  if (kGroup == 1 && max_speed == INFINITY) return;
  DK_UNROLL
  for (int n = 0; n < kCount; n += kGroup) limit_group<Scalar, kGroup>(u + n, max_speed);
}

DK_NAMESPACE_END
