// Lanes: the same element code runs on one float (Scalar: portable build, loop tails, CUDA threads), eight (Avx2) or
// sixteen (Avx512). The only file with intrinsics. Every operation is IEEE-exact and every fused multiply-add is
// written out (compile with -ffp-contract=off), so all widths give the same bits.
#pragma once
#include <cmath>

#include "storage.h"
#if !defined(__CUDACC__) && (defined(__AVX2__) || defined(__AVX512F__))
#include <immintrin.h>
#endif

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

  using Wide = uint64_t;
  static constexpr int kWides = 1;
  static DK_INLINE Wide wide_counter(uint64_t first, int) { return first; }
  static DK_INLINE Wide wide_splat(uint32_t x) { return x; }
  static DK_INLINE Wide wide_mul(Wide a, uint32_t b) { return uint64_t(uint32_t(a)) * b; }
  static DK_INLINE Wide wide_high(Wide a) { return a >> 32; }
  static DK_INLINE Wide wide_xor(Wide a, Wide b) { return a ^ b; }
  static DK_INLINE Wide wide_xor3(Wide a, Wide b, Wide c) { return a ^ b ^ c; }
  static DK_INLINE U wide_join(Wide even, Wide) { return uint32_t(even); }
};

#if !defined(__CUDACC__) && defined(__AVX2__)
struct Avx2 {
  static constexpr int kWidth = 8;
  using Eight = Avx2;
  using F = __m256;
  using U = __m256i;
  using M = __m256;  // the sign bit of a lane counts

  static DK_INLINE F splat(float x) { return _mm256_set1_ps(x); }
  static DK_INLINE U splat_bits(uint32_t x) { return _mm256_set1_epi32(int(x)); }
  static DK_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
  static DK_INLINE F load(const BFloat16* p) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
  }
  static DK_INLINE F load(const Float16* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static DK_INLINE void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static DK_INLINE void store(BFloat16* p, F x) {
    const U b = bits(x), nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const U odd = _mm256_and_si256(_mm256_srli_epi32(b, 16), splat_bits(1));
    U rounded = _mm256_srli_epi32(_mm256_add_epi32(b, _mm256_add_epi32(odd, splat_bits(0x7fffu))), 16);
    rounded = _mm256_blendv_epi8(rounded, _mm256_or_si256(_mm256_srli_epi32(b, 16), splat_bits(0x40u)), nan);
    const __m128i low = _mm256_castsi256_si128(rounded), high = _mm256_extracti128_si256(rounded, 1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packus_epi32(low, high));
  }
  static DK_INLINE void store(Float16* p, F x) {
    // A quiet NaN without payload, as the portable conversion writes it.
    const M nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    x = select(nan, from_bits(bor(band(bits(x), splat_bits(0x80000000u)), splat_bits(0x7fc00000u))), x);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  static DK_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static DK_INLINE F sqrt(F x) { return _mm256_sqrt_ps(x); }
  static DK_INLINE F abs(F x) { return _mm256_andnot_ps(splat(-0.0f), x); }
  static DK_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }
  static DK_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
  static DK_INLINE M less(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static DK_INLINE M less_bits(U a, U b) {  // unsigned; AVX2 compares signed numbers only
    const U top = splat_bits(0x80000000u);
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_xor_si256(b, top), _mm256_xor_si256(a, top)));
  }
  static DK_INLINE M negative(U x) { return _mm256_castsi256_ps(x); }
  static DK_INLINE M mask_or(M a, M b) { return _mm256_or_ps(a, b); }
  static DK_INLINE M mask_andnot(M a, M b) { return _mm256_andnot_ps(b, a); }
  static DK_INLINE bool any(M m) { return _mm256_movemask_ps(m) != 0; }
  static DK_INLINE F select(M m, F a, F b) { return _mm256_blendv_ps(b, a, m); }
  static DK_INLINE U bits(F x) { return _mm256_castps_si256(x); }
  static DK_INLINE F from_bits(U x) { return _mm256_castsi256_ps(x); }
  static DK_INLINE F signed_to_float(U x) { return _mm256_cvtepi32_ps(x); }
  static DK_INLINE U truncated(F x) { return _mm256_cvttps_epi32(x); }
  static DK_INLINE U band(U a, U b) { return _mm256_and_si256(a, b); }
  static DK_INLINE U bor(U a, U b) { return _mm256_or_si256(a, b); }
  static DK_INLINE U bxor(U a, U b) { return _mm256_xor_si256(a, b); }
  static DK_INLINE U add_bits(U a, U b) { return _mm256_add_epi32(a, b); }
  static DK_INLINE U sub_bits(U a, U b) { return _mm256_sub_epi32(a, b); }
  static DK_INLINE U select_bits(M m, U a, U b) { return _mm256_castps_si256(select(m, from_bits(a), from_bits(b))); }
  template <int n>
  static DK_INLINE U shift_right(U x) {
    return _mm256_srli_epi32(x, n);
  }
  template <int n>
  static DK_INLINE U shift_left(U x) {
    return _mm256_slli_epi32(x, n);
  }

  // A lookup in 16 entries takes two permutes and a blend; where every index is in 7..14 (`near`), one permute of the
  // upper half with entry 7 put in the place of the unused entry 15.
  struct Table {
    F low, high, near;
  };
  static DK_INLINE Table table(const float* e) {
    const F low = _mm256_loadu_ps(e), high = _mm256_loadu_ps(e + 8);
    return {low, high, _mm256_blend_ps(high, low, 0x80)};
  }
  static DK_INLINE F lookup(const Table& t, U index, bool near) {
    if (near) return _mm256_permutevar8x32_ps(t.near, index);
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(t.low, index), _mm256_permutevar8x32_ps(t.high, index),
                            _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
  }

  static DK_INLINE void deinterleave(F a, F b, F& x, F& y) {
    const F even = _mm256_shuffle_ps(a, b, _MM_SHUFFLE(2, 0, 2, 0)),
            odd = _mm256_shuffle_ps(a, b, _MM_SHUFFLE(3, 1, 3, 1));
    x = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(even), _MM_SHUFFLE(3, 1, 2, 0)));
    y = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(odd), _MM_SHUFFLE(3, 1, 2, 0)));
  }
  static DK_INLINE void interleave(F x, F y, F& a, F& b) {
    const F low = _mm256_unpacklo_ps(x, y), high = _mm256_unpackhi_ps(x, y);
    a = _mm256_permute2f128_ps(low, high, 0x20);
    b = _mm256_permute2f128_ps(low, high, 0x31);
  }

  static DK_INLINE void columns(const float (*rows)[8], F out[8]) {
    for (int half = 0; half < 2; ++half) {
      F x[4];
      for (int i = 0; i < 4; ++i)
        x[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(rows[i] + 4 * half)),
                                    _mm_loadu_ps(rows[4 + i] + 4 * half), 1);
      const F a = _mm256_unpacklo_ps(x[0], x[1]), b = _mm256_unpackhi_ps(x[0], x[1]);
      const F c = _mm256_unpacklo_ps(x[2], x[3]), d = _mm256_unpackhi_ps(x[2], x[3]);
      F* y = out + 4 * half;
      y[0] = _mm256_shuffle_ps(a, c, _MM_SHUFFLE(1, 0, 1, 0)), y[1] = _mm256_shuffle_ps(a, c, _MM_SHUFFLE(3, 2, 3, 2));
      y[2] = _mm256_shuffle_ps(b, d, _MM_SHUFFLE(1, 0, 1, 0)), y[3] = _mm256_shuffle_ps(b, d, _MM_SHUFFLE(3, 2, 3, 2));
    }
  }

  using D = __m256d;
  static constexpr int kDoubles = 2;
  static DK_INLINE D double_splat(double x) { return _mm256_set1_pd(x); }
  static DK_INLINE D double_load(const double* p) { return _mm256_loadu_pd(p); }
  static DK_INLINE void double_store(double* p, D x) { _mm256_storeu_pd(p, x); }
  static DK_INLINE D double_fma(D a, D b, D c) { return _mm256_fmadd_pd(a, b, c); }
  static DK_INLINE D double_floor(D x) { return _mm256_floor_pd(x); }
  static DK_INLINE D double_min(D a, D b) { return _mm256_min_pd(a, b); }
  static DK_INLINE D double_power_of_two(D x) {
    return _mm256_castsi256_pd(
        _mm256_add_epi64(_mm256_slli_epi64(_mm256_castpd_si256(x), 52), _mm256_set1_epi64x(int64_t(1023) << 52)));
  }
  static DK_INLINE F floats(const D* x) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(x[0])), _mm256_cvtpd_ps(x[1]), 1);
  }
  static DK_INLINE U integers(const D* x) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm256_cvttpd_epi32(x[0])), _mm256_cvttpd_epi32(x[1]), 1);
  }

  using Wide = __m256i;  // part 0 holds the even lanes, part 1 the odd ones
  static constexpr int kWides = 2;
  static DK_INLINE Wide wide_counter(uint64_t first, int part) {
    return _mm256_add_epi64(_mm256_set1_epi64x(int64_t(first) + part), _mm256_set_epi64x(6, 4, 2, 0));
  }
  static DK_INLINE Wide wide_splat(uint32_t x) { return _mm256_set1_epi32(int(x)); }
  static DK_INLINE Wide wide_mul(Wide a, uint32_t b) { return _mm256_mul_epu32(a, _mm256_set1_epi32(int(b))); }
  // Not a shift: that would compete with the products for their ports.
  static DK_INLINE Wide wide_high(Wide a) { return _mm256_castps_si256(_mm256_movehdup_ps(_mm256_castsi256_ps(a))); }
  static DK_INLINE Wide wide_xor(Wide a, Wide b) { return _mm256_xor_si256(a, b); }
  static DK_INLINE Wide wide_xor3(Wide a, Wide b, Wide c) { return _mm256_xor_si256(a, _mm256_xor_si256(b, c)); }
  static DK_INLINE U wide_join(Wide even, Wide odd) {
    return _mm256_blend_epi32(even, _mm256_shuffle_epi32(odd, _MM_SHUFFLE(2, 2, 0, 0)), 0xAA);
  }
};
#endif

#if !defined(__CUDACC__) && defined(__AVX512F__)
struct Avx512 {
  static constexpr int kWidth = 16;
  using Eight = Avx2;
  using F = __m512;
  using U = __m512i;
  using M = __mmask16;

  static DK_INLINE F splat(float x) { return _mm512_set1_ps(x); }
  static DK_INLINE U splat_bits(uint32_t x) { return _mm512_set1_epi32(int(x)); }
  static DK_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
  static DK_INLINE F load(const BFloat16* p) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
  }
  static DK_INLINE F load(const Float16* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static DK_INLINE void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static DK_INLINE void store(BFloat16* p, F x) {
    const U b = bits(x);
    const U odd = _mm512_and_si512(_mm512_srli_epi32(b, 16), splat_bits(1));
    U rounded = _mm512_srli_epi32(_mm512_add_epi32(b, _mm512_add_epi32(odd, splat_bits(0x7fffu))), 16);
    rounded = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_srli_epi32(b, 16),
                                   splat_bits(0x40u));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded));
  }
  static DK_INLINE void store(Float16* p, F x) {
    const M nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    x = select(nan, from_bits(bor(band(bits(x), splat_bits(0x80000000u)), splat_bits(0x7fc00000u))), x);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  static DK_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static DK_INLINE F sqrt(F x) { return _mm512_sqrt_ps(x); }
  static DK_INLINE F abs(F x) { return _mm512_abs_ps(x); }
  static DK_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
  static DK_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
  static DK_INLINE M less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static DK_INLINE M less_bits(U a, U b) { return _mm512_cmplt_epu32_mask(a, b); }
  static DK_INLINE M negative(U x) { return _mm512_cmplt_epi32_mask(x, _mm512_setzero_si512()); }
  static DK_INLINE M mask_or(M a, M b) { return M(a | b); }
  static DK_INLINE M mask_andnot(M a, M b) { return M(a & ~b); }
  static DK_INLINE bool any(M m) { return m != 0; }
  static DK_INLINE F select(M m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }
  static DK_INLINE U bits(F x) { return _mm512_castps_si512(x); }
  static DK_INLINE F from_bits(U x) { return _mm512_castsi512_ps(x); }
  static DK_INLINE F signed_to_float(U x) { return _mm512_cvtepi32_ps(x); }
  static DK_INLINE U truncated(F x) { return _mm512_cvttps_epi32(x); }
  static DK_INLINE U band(U a, U b) { return _mm512_and_si512(a, b); }
  static DK_INLINE U bor(U a, U b) { return _mm512_or_si512(a, b); }
  static DK_INLINE U bxor(U a, U b) { return _mm512_xor_si512(a, b); }
  static DK_INLINE U add_bits(U a, U b) { return _mm512_add_epi32(a, b); }
  static DK_INLINE U sub_bits(U a, U b) { return _mm512_sub_epi32(a, b); }
  static DK_INLINE U select_bits(M m, U a, U b) { return _mm512_mask_blend_epi32(m, b, a); }
  template <int n>
  static DK_INLINE U shift_right(U x) {
    return _mm512_srli_epi32(x, n);
  }
  template <int n>
  static DK_INLINE U shift_left(U x) {
    return _mm512_slli_epi32(x, n);
  }

  using Table = F;
  static DK_INLINE Table table(const float* entries) { return _mm512_loadu_ps(entries); }
  static DK_INLINE F lookup(Table t, U index, bool) { return _mm512_permutexvar_ps(index, t); }

  static DK_INLINE void deinterleave(F a, F b, F& x, F& y) {
    const U even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    x = _mm512_permutex2var_ps(a, even, b);
    y = _mm512_permutex2var_ps(a, _mm512_add_epi32(even, splat_bits(1)), b);
  }
  static DK_INLINE void interleave(F x, F y, F& a, F& b) {
    const U first = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    a = _mm512_permutex2var_ps(x, first, y);
    b = _mm512_permutex2var_ps(x, _mm512_add_epi32(first, splat_bits(8)), y);
  }

  static DK_INLINE void columns(const float (*rows)[8], F out[8]) {
    for (int half = 0; half < 2; ++half) {
      F x[4];
      for (int i = 0; i < 4; ++i) {
        const float(*r)[8] = rows + i;
        const auto quarter = [&](int j) { return _mm_loadu_ps(r[4 * j] + 4 * half); };
        x[i] = _mm512_insertf32x4(_mm512_castps128_ps512(quarter(0)), quarter(1), 1);
        x[i] = _mm512_insertf32x4(_mm512_insertf32x4(x[i], quarter(2), 2), quarter(3), 3);
      }
      const F a = _mm512_unpacklo_ps(x[0], x[1]), b = _mm512_unpackhi_ps(x[0], x[1]);
      const F c = _mm512_unpacklo_ps(x[2], x[3]), d = _mm512_unpackhi_ps(x[2], x[3]);
      F* y = out + 4 * half;
      y[0] = _mm512_shuffle_ps(a, c, _MM_SHUFFLE(1, 0, 1, 0)), y[1] = _mm512_shuffle_ps(a, c, _MM_SHUFFLE(3, 2, 3, 2));
      y[2] = _mm512_shuffle_ps(b, d, _MM_SHUFFLE(1, 0, 1, 0)), y[3] = _mm512_shuffle_ps(b, d, _MM_SHUFFLE(3, 2, 3, 2));
    }
  }

  using D = __m512d;
  static constexpr int kDoubles = 2;
  static DK_INLINE D double_splat(double x) { return _mm512_set1_pd(x); }
  static DK_INLINE D double_load(const double* p) { return _mm512_loadu_pd(p); }
  static DK_INLINE void double_store(double* p, D x) { _mm512_storeu_pd(p, x); }
  static DK_INLINE D double_fma(D a, D b, D c) { return _mm512_fmadd_pd(a, b, c); }
  static DK_INLINE D double_floor(D x) { return _mm512_floor_pd(x); }
  static DK_INLINE D double_min(D a, D b) { return _mm512_min_pd(a, b); }
  static DK_INLINE D double_power_of_two(D x) {
    return _mm512_castsi512_pd(
        _mm512_add_epi64(_mm512_slli_epi64(_mm512_castpd_si512(x), 52), _mm512_set1_epi64(int64_t(1023) << 52)));
  }
  static DK_INLINE F floats(const D* x) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(x[0])), _mm512_cvtpd_ps(x[1]), 1);
  }
  static DK_INLINE U integers(const D* x) {
    return _mm512_inserti32x8(_mm512_castsi256_si512(_mm512_cvttpd_epi32(x[0])), _mm512_cvttpd_epi32(x[1]), 1);
  }

  using Wide = __m512i;
  static constexpr int kWides = 2;
  static DK_INLINE Wide wide_counter(uint64_t first, int part) {
    return _mm512_add_epi64(_mm512_set1_epi64(int64_t(first) + part), _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0));
  }
  static DK_INLINE Wide wide_splat(uint32_t x) { return _mm512_set1_epi32(int(x)); }
  static DK_INLINE Wide wide_mul(Wide a, uint32_t b) { return _mm512_mul_epu32(a, _mm512_set1_epi32(int(b))); }
  // Not a shift: that would compete with the products for the one port that has them.
  static DK_INLINE Wide wide_high(Wide a) { return _mm512_castps_si512(_mm512_movehdup_ps(_mm512_castsi512_ps(a))); }
  static DK_INLINE Wide wide_xor(Wide a, Wide b) { return _mm512_xor_si512(a, b); }
  static DK_INLINE Wide wide_xor3(Wide a, Wide b, Wide c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
  static DK_INLINE U wide_join(Wide even, Wide odd) {
    return _mm512_mask_shuffle_epi32(even, 0xAAAA, odd, _MM_PERM_CCAA);
  }
};
using Lanes = Avx512;
#elif !defined(__CUDACC__) && defined(__AVX2__)
using Lanes = Avx2;
#else
using Lanes = Scalar;
#endif

DK_NAMESPACE_END
