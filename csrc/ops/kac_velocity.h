// How far outside the light cone a displacement may lie before it counts as a wrong input: the rounding of its type.
#pragma once
#include "../lanes/storage.h"
#include "../row.h"

DK_NAMESPACE_BEGIN

DK_INLINE ConeRounding cone_rounding(float) { return {1e-6f, 0x1p-149f}; }
DK_INLINE ConeRounding cone_rounding(BFloat16) { return {0x1p-7f, 0x1p-133f}; }
DK_INLINE ConeRounding cone_rounding(Float16) { return {0x1p-10f, 0x1p-24f}; }

DK_NAMESPACE_END
