// How far outside the light cone a displacement may lie before it counts as a wrong input: the rounding of its type.
#pragma once
#include "../lanes/storage.h"

DK_NAMESPACE_BEGIN

DK_INLINE float cone_tolerance(float) { return 1e-6f; }
DK_INLINE float cone_tolerance(BFloat16) { return 0x1p-7f; }
DK_INLINE float cone_tolerance(Float16) { return 0x1p-10f; }

DK_NAMESPACE_END
