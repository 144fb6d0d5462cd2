// The three element types as they lie in memory. Arithmetic is float32 everywhere; bfloat16 and float16 are converted
// on the way in and rounded to nearest even on the way out. A NaN stays one; its other bits are the device's own.
#pragma once
#include <cstring>

#include "../kernels.h"
#include "platform.h"
#if defined(__CUDA_ARCH__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

DK_NAMESPACE_BEGIN

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <class To, class From>
DK_INLINE To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}

DK_INLINE float to_float(float value) { return value; }
DK_INLINE float to_float(BFloat16 value) { return bit_cast<float>(uint32_t(value.bits) << 16); }
DK_INLINE float to_float(Float16 value) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(value.bits));
#else
  const uint32_t sign = uint32_t(value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return bit_cast<float>(sign | 0x7f800000u | (magnitude << 13));  // infinity, NaN
  // Multiplying by 2^112 moves the exponent bias from 15 to 127 and normalises subnormals, exactly.
  return bit_cast<float>(bit_cast<uint32_t>(bit_cast<float>(magnitude << 13) * 0x1p112f) | sign);
#endif
}

template <class T>
DK_INLINE T from_float(float value);
template <>
DK_INLINE float from_float<float>(float value) {
  return value;
}
template <>
DK_INLINE BFloat16 from_float<BFloat16>(float value) {
#if defined(__CUDA_ARCH__)
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
  const uint32_t bits = bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {uint16_t((bits >> 16) | 0x40u)};  // NaN stays NaN
  return {uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
#endif
}
template <>
DK_INLINE Float16 from_float<Float16>(float value) {
#if defined(__CUDA_ARCH__)
  return {__half_as_ushort(__float2half_rn(value))};
#else
  const uint32_t bits = bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000u);
  if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};  // rounds past 65504: infinity
  if (magnitude < 0x38800000u) {  // below 2^-14: adding 1/2 lets the FPU round to the subnormal spacing 2^-24
    const float shifted = bit_cast<float>(magnitude) + 0.5f;
    return {uint16_t(sign | uint16_t(bit_cast<uint32_t>(shifted) - 0x3f000000u))};
  }
  return {uint16_t(sign | uint16_t((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13))};
#endif
}

// Calls f with a value of the element type; the one place that turns a Dtype into a template argument.
template <class F>
inline auto with_dtype(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::kFloat32:
      return f(float{});
    case Dtype::kBFloat16:
      return f(BFloat16{});
    case Dtype::kFloat16:
      return f(Float16{});
  }
  DK_UNREACHABLE();
}

DK_INLINE double row_scalar(const RowScalar& scalar, int64_t row) {
  if (!scalar.data) return scalar.value;
  return scalar.is_double ? static_cast<const double*>(scalar.data)[row] : static_cast<const float*>(scalar.data)[row];
}

// A row's time. -0, which rounding gives, is 0: the sign would reach what is drawn.
DK_INLINE double row_time(const RowScalar& scalar, int64_t row) { return row_scalar(scalar, row) + 0.0; }

DK_INLINE uint64_t seed_value(const Seed& seed) { return uint64_t(seed.data ? *seed.data : seed.value); }

DK_NAMESPACE_END
