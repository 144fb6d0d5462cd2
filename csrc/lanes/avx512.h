// Sixteen lanes.
#pragma once
#include <immintrin.h>

#include "avx2.h"

DK_NAMESPACE_BEGIN

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
    // To nearest, a tie to even: half a unit less one bit is added, and that bit where the last bit kept is odd.
    const U b = bits(x);
    U rounded = _mm512_add_epi32(b, splat_bits(0x7fffu));
    rounded = _mm512_mask_add_epi32(rounded, _mm512_test_epi32_mask(b, splat_bits(0x10000u)), rounded, splat_bits(1));
    rounded = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), b, splat_bits(0x400000u));
    // The upper halves by one permutation: narrowing takes two operations, after a shift.
    const U upper = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0x1f001d, 0x1b0019, 0x170015, 0x130011, 0xf000d, 0xb0009,
                                     0x70005, 0x30001);
    const U packed = _mm512_permutexvar_epi16(upper, rounded);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(packed));
  }
  static DK_INLINE void store(Float16* p, F x) {
    const M nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    x = select(nan, from_bits(bor(band(bits(x), splat_bits(0x80000000u)), splat_bits(0x7fc00000u))), x);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  static DK_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static DK_INLINE F sqrt(F x) { return _mm512_sqrt_ps(x); }
  static DK_INLINE F divide_normal(F a, F b) { return a / b; }
  static DK_INLINE F sqrt_normal(F x) { return sqrt(x); }
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

DK_NAMESPACE_END
