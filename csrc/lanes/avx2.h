// Eight lanes.
#pragma once
#include <immintrin.h>

#include "scalar.h"

DK_NAMESPACE_BEGIN

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
    U rounded = _mm256_add_epi32(b, _mm256_add_epi32(odd, splat_bits(0x7fffu)));
    rounded = _mm256_blendv_epi8(rounded, _mm256_or_si256(b, splat_bits(0x400000u)), nan);
    // The upper halves, first within each half of the vector, then those together.
    const U upper = _mm256_broadcastsi128_si256(_mm_setr_epi8(2, 3, 6, 7, 10, 11, 14, 15, 0, 0, 0, 0, 0, 0, 0, 0));
    const U packed = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(rounded, upper), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
  static DK_INLINE void store(Float16* p, F x) {
    // A quiet NaN without payload, as the portable conversion writes it.
    const M nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    x = select(nan, from_bits(bor(band(bits(x), splat_bits(0x80000000u)), splat_bits(0x7fc00000u))), x);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  static DK_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static DK_INLINE F sqrt(F x) { return _mm256_sqrt_ps(x); }
  static DK_INLINE F divide_normal(F a, F b) { return a / b; }
  static DK_INLINE F sqrt_normal(F x) { return sqrt(x); }
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

DK_NAMESPACE_END
