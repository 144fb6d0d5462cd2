// The CPU loops of group normalisation, of one SIMD level.
#pragma once
#include "../kernels.h"
#include "../lanes/platform.h"

DK_NAMESPACE_BEGIN

bool group_norm_cpu(const GroupNormArgs&, int64_t begin, int64_t end);
bool group_norm_grad_cpu(const GroupNormGradArgs&, int64_t begin, int64_t end);

DK_NAMESPACE_END
