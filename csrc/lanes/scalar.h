// One lane: the portable build, the tails of loops, the threads of a GPU. What each operation means is said here.
#pragma once
#include <cmath>

#include "storage.h"

DK_NAMESPACE_BEGIN

struct Scalar {
  static constexpr int kWidth = 1;
  using F = float;     // lanes of float32
  using U = uint32_t;  // lanes of 32 bits
  using M = bool;      // one truth value a lane

  static DK_INLINE F splat(float x) { return x; }
  static DK_INLINE U splat_bits(uint32_t x) { return x; }
  template <class T>
  static DK_INLINE F load(const T* p) {
    return to_float(*p);
  }
  template <class T>
  static DK_INLINE void store(T* p, F x) {
    *p = from_float<T>(x);
  }
  static DK_INLINE F fma(F a, F b, F c) {
#if defined(__CUDA_ARCH__)
    return __fmaf_rn(a, b, c);
#else
    return __builtin_fmaf(a, b, c);
#endif
  }
  static DK_INLINE F sqrt(F x) {
#if defined(__CUDA_ARCH__)
    return __fsqrt_rn(x);
#else
    return __builtin_sqrtf(x);
#endif
  }
  // a / b and sqrt(x), correctly rounded, where a and x are 2^-100 or more, and b, 1 / b and a / b normal: a GPU then
  // needs no slow path, and runs what nvcc makes of a division but for that (tests/kernels/test_cuda_division.py).
#if defined(__CUDACC__)
  static DK_INLINE F divide_normal(F a, F b) {
    const F estimate = reciprocal_estimate(b), inverse = fma(fma(-b, estimate, 1.f), estimate, estimate);
    const F quotient = a * inverse;
    return fma(fma(-b, quotient, a), inverse, quotient);
  }
  static DK_INLINE F sqrt_normal(F x) {
    const F estimate = inverse_root_estimate(x), root = x * estimate;
    return fma(fma(-root, root, x), 0.5f * estimate, root);
  }
#if defined(__CUDA_ARCH__)
  static __device__ __forceinline__ F reciprocal_estimate(F x) {  // to 1 ulp
    F result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
  }
  static __device__ __forceinline__ F inverse_root_estimate(F x) {  // to 2 ulp
    F result;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
  }
#else
  static F reciprocal_estimate(F x) { return 1.f / x; }
  static F inverse_root_estimate(F x) { return float(1 / std::sqrt(double(x))); }
#endif
#else
  static DK_INLINE F divide_normal(F a, F b) { return a / b; }
  static DK_INLINE F sqrt_normal(F x) { return sqrt(x); }
#endif
  static DK_INLINE F abs(F x) { return bit_cast<float>(bit_cast<uint32_t>(x) & 0x7fffffffu); }
  static DK_INLINE F min(F a, F b) { return a < b ? a : b; }  // b where either is NaN, as minps does
  static DK_INLINE F max(F a, F b) { return a > b ? a : b; }
  static DK_INLINE M less(F a, F b) { return a < b; }
  static DK_INLINE M less_bits(U a, U b) { return a < b; }  // unsigned
  static DK_INLINE M negative(U x) { return int32_t(x) < 0; }
  static DK_INLINE M mask_or(M a, M b) { return a || b; }
  static DK_INLINE M mask_andnot(M a, M b) { return a && !b; }
  static DK_INLINE bool any(M m) { return m; }
  static DK_INLINE F select(M m, F a, F b) { return m ? a : b; }
  static DK_INLINE U bits(F x) { return bit_cast<uint32_t>(x); }
  static DK_INLINE F from_bits(U x) { return bit_cast<float>(x); }
  static DK_INLINE F signed_to_float(U x) { return float(int32_t(x)); }
  static DK_INLINE U truncated(F x) { return uint32_t(int32_t(x)); }
  static DK_INLINE U band(U a, U b) { return a & b; }
  static DK_INLINE U bor(U a, U b) { return a | b; }
  static DK_INLINE U bxor(U a, U b) { return a ^ b; }
  static DK_INLINE U add_bits(U a, U b) { return a + b; }
  static DK_INLINE U sub_bits(U a, U b) { return a - b; }
  static DK_INLINE U select_bits(M m, U a, U b) { return m ? a : b; }
  template <int n>
  static DK_INLINE U shift_right(U x) {
    return x >> n;
  }
  template <int n>
  static DK_INLINE U shift_left(U x) {
    return x << n;
  }

  using Table = const float*;  // 16 floats looked up by the low 4 bits of an index
  static DK_INLINE Table table(const float* entries) { return entries; }
  static DK_INLINE F lookup(Table t, U index, bool) { return t[index & 15u]; }

  // (x0, y0, x1, y1, ...) in two vectors <-> (x0, x1, ...), (y0, y1, ...)
  static DK_INLINE void deinterleave(F a, F b, F& x, F& y) { x = a, y = b; }
  static DK_INLINE void interleave(F x, F y, F& a, F& b) { a = x, b = y; }

  using Eight = Scalar;  // lanes that divide eight
  // out[k] = column k of kWidth rows of eight floats
  static DK_INLINE void columns(const float (*rows)[8], F out[8]) {
    for (int k = 0; k < 8; ++k) out[k] = rows[0][k];
  }

  using D = double;  // lanes of float64; kDoubles of them make up the lanes of V
  static constexpr int kDoubles = 1;
  static DK_INLINE D double_splat(double x) { return x; }
  static DK_INLINE D double_load(const double* p) { return *p; }
  static DK_INLINE void double_store(double* p, D x) { *p = x; }
  static DK_INLINE D double_fma(D a, D b, D c) {
#if defined(__CUDA_ARCH__)
    return __fma_rn(a, b, c);
#else
    return __builtin_fma(a, b, c);
#endif
  }
  static DK_INLINE D double_floor(D x) { return floor(x); }
  static DK_INLINE D double_min(D a, D b) { return a < b ? a : b; }
  static DK_INLINE D double_power_of_two(D x) {  // 2^n of x = n + 1.5 2^52
    return bit_cast<double>((bit_cast<uint64_t>(x) << 52) + (uint64_t(1023) << 52));
  }
  static DK_INLINE F floats(const D* x) { return float(*x); }
  static DK_INLINE U integers(const D* x) { return uint32_t(int32_t(*x)); }  // rounded to zero

  static constexpr int kWides = 1;
#if defined(__CUDACC__)
  struct Wide {  // two registers: of a uint64_t, ptxas would copy the upper one at every product
    uint32_t low, high;
  };
  static DK_INLINE Wide wide_of(uint64_t x) { return {uint32_t(x), uint32_t(x >> 32)}; }
  static DK_INLINE Wide wide_counter(uint64_t first, int) { return wide_of(first); }
  static DK_INLINE Wide wide_splat(uint32_t x) { return {x, 0}; }
  static DK_INLINE Wide wide_mul(Wide a, uint32_t b) { return wide_of(uint64_t(a.low) * b); }
  static DK_INLINE Wide wide_high(Wide a) { return {a.high, 0}; }
  static DK_INLINE Wide wide_xor(Wide a, Wide b) { return {a.low ^ b.low, 0}; }
  static DK_INLINE Wide wide_xor3(Wide a, Wide b, Wide c) { return {a.low ^ b.low ^ c.low, 0}; }
  static DK_INLINE U wide_join(Wide even, Wide) { return even.low; }
#else
  using Wide = uint64_t;
  static DK_INLINE Wide wide_counter(uint64_t first, int) { return first; }
  static DK_INLINE Wide wide_splat(uint32_t x) { return x; }
  static DK_INLINE Wide wide_mul(Wide a, uint32_t b) { return uint64_t(uint32_t(a)) * b; }
  static DK_INLINE Wide wide_high(Wide a) { return a >> 32; }
  static DK_INLINE Wide wide_xor(Wide a, Wide b) { return a ^ b; }
  static DK_INLINE Wide wide_xor3(Wide a, Wide b, Wide c) { return a ^ b ^ c; }
  static DK_INLINE U wide_join(Wide even, Wide) { return uint32_t(even); }
#endif
};

DK_NAMESPACE_END
