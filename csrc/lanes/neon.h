// Four lanes of an ARM processor of 64 bits. Its fused multiply-add, division and square root are IEEE-exact.
#pragma once
#include <arm_neon.h>

#include "scalar.h"

DK_NAMESPACE_BEGIN

struct Neon {
  static constexpr int kWidth = 4;
  using Eight = Neon;
  using F = float32x4_t;
  using U = uint32x4_t;
  using M = uint32x4_t;  // all bits of a lane, or none

  static DK_INLINE F splat(float x) { return vdupq_n_f32(x); }
  static DK_INLINE U splat_bits(uint32_t x) { return vdupq_n_u32(x); }
  static DK_INLINE F load(const float* p) { return vld1q_f32(p); }
  static DK_INLINE F load(const BFloat16* p) { return from_bits(vshll_n_u16(halves(p), 16)); }
  static DK_INLINE F load(const Float16* p) { return vcvt_f32_f16(vreinterpret_f16_u16(halves(p))); }
  static DK_INLINE void store(float* p, F x) { vst1q_f32(p, x); }
  static DK_INLINE void store(BFloat16* p, F x) {
    const U b = bits(x), odd = band(shift_right<16>(b), splat_bits(1));
    const U rounded = shift_right<16>(add_bits(b, add_bits(odd, splat_bits(0x7fffu))));
    const U quiet = bor(shift_right<16>(b), splat_bits(0x40u));
    store_halves(p, vmovn_u32(vbslq_u32(is_nan(x), quiet, rounded)));
  }
  static DK_INLINE void store(Float16* p, F x) {
    // A quiet NaN without payload, as the portable conversion writes it.
    x = select(is_nan(x), from_bits(bor(band(bits(x), splat_bits(0x80000000u)), splat_bits(0x7fc00000u))), x);
    store_halves(p, vreinterpret_u16_f16(vcvt_f16_f32(x)));
  }
  static DK_INLINE F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static DK_INLINE F sqrt(F x) { return vsqrtq_f32(x); }
  static DK_INLINE F divide_normal(F a, F b) { return a / b; }
  static DK_INLINE F sqrt_normal(F x) { return sqrt(x); }
  static DK_INLINE F abs(F x) { return vabsq_f32(x); }
  static DK_INLINE F min(F a, F b) { return select(less(a, b), a, b); }  // not vminq: b where either is NaN
  static DK_INLINE F max(F a, F b) { return select(less(b, a), a, b); }
  static DK_INLINE M less(F a, F b) { return vcltq_f32(a, b); }
  static DK_INLINE M less_bits(U a, U b) { return vcltq_u32(a, b); }
  static DK_INLINE M negative(U x) { return vcltzq_s32(vreinterpretq_s32_u32(x)); }
  static DK_INLINE M mask_or(M a, M b) { return vorrq_u32(a, b); }
  static DK_INLINE M mask_andnot(M a, M b) { return vbicq_u32(a, b); }
  static DK_INLINE bool any(M m) { return vmaxvq_u32(m) != 0; }
  static DK_INLINE F select(M m, F a, F b) { return vbslq_f32(m, a, b); }
  static DK_INLINE U bits(F x) { return vreinterpretq_u32_f32(x); }
  static DK_INLINE F from_bits(U x) { return vreinterpretq_f32_u32(x); }
  static DK_INLINE F signed_to_float(U x) { return vcvtq_f32_s32(vreinterpretq_s32_u32(x)); }
  static DK_INLINE U truncated(F x) { return vreinterpretq_u32_s32(vcvtq_s32_f32(x)); }
  static DK_INLINE U band(U a, U b) { return vandq_u32(a, b); }
  static DK_INLINE U bor(U a, U b) { return vorrq_u32(a, b); }
  static DK_INLINE U bxor(U a, U b) { return veorq_u32(a, b); }
  static DK_INLINE U add_bits(U a, U b) { return vaddq_u32(a, b); }
  static DK_INLINE U sub_bits(U a, U b) { return vsubq_u32(a, b); }
  static DK_INLINE U select_bits(M m, U a, U b) { return vbslq_u32(m, a, b); }
  template <int n>
  static DK_INLINE U shift_right(U x) {
    return vshrq_n_u32(x, n);
  }
  template <int n>
  static DK_INLINE U shift_left(U x) {
    return vshlq_n_u32(x, n);
  }

  using Table = uint8x16x4_t;  // 16 floats as 64 bytes, which one instruction looks up
  static DK_INLINE Table table(const float* entries) { return vld1q_u8_x4(reinterpret_cast<const uint8_t*>(entries)); }
  static DK_INLINE F lookup(const Table& t, U index, bool) {
    const U first = vmulq_n_u32(band(index, splat_bits(15)), 0x04040404u);  // 4 i in each byte of a lane
    return vreinterpretq_f32_u8(vqtbl4q_u8(t, vreinterpretq_u8_u32(add_bits(first, splat_bits(0x03020100u)))));
  }

  static DK_INLINE void deinterleave(F a, F b, F& x, F& y) { x = vuzp1q_f32(a, b), y = vuzp2q_f32(a, b); }
  static DK_INLINE void interleave(F x, F y, F& a, F& b) { a = vzip1q_f32(x, y), b = vzip2q_f32(x, y); }

  static DK_INLINE void columns(const float (*rows)[8], F out[8]) {
    for (int half = 0; half < 2; ++half) {
      F x[4];
      for (int i = 0; i < 4; ++i) x[i] = vld1q_f32(rows[i] + 4 * half);
      const F a = vzip1q_f32(x[0], x[2]), b = vzip2q_f32(x[0], x[2]);
      const F c = vzip1q_f32(x[1], x[3]), d = vzip2q_f32(x[1], x[3]);
      F* y = out + 4 * half;
      y[0] = vzip1q_f32(a, c), y[1] = vzip2q_f32(a, c), y[2] = vzip1q_f32(b, d), y[3] = vzip2q_f32(b, d);
    }
  }

  using D = float64x2_t;
  static constexpr int kDoubles = 2;
  static DK_INLINE D double_splat(double x) { return vdupq_n_f64(x); }
  static DK_INLINE D double_load(const double* p) { return vld1q_f64(p); }
  static DK_INLINE void double_store(double* p, D x) { vst1q_f64(p, x); }
  static DK_INLINE D double_fma(D a, D b, D c) { return vfmaq_f64(c, a, b); }
  static DK_INLINE D double_floor(D x) { return vrndmq_f64(x); }
  static DK_INLINE D double_min(D a, D b) { return vbslq_f64(vcltq_f64(a, b), a, b); }
  static DK_INLINE D double_power_of_two(D x) {
    const uint64x2_t shifted = vshlq_n_u64(vreinterpretq_u64_f64(x), 52);
    return vreinterpretq_f64_u64(vaddq_u64(shifted, vdupq_n_u64(uint64_t(1023) << 52)));
  }
  static DK_INLINE F floats(const D* x) { return vcvt_high_f32_f64(vcvt_f32_f64(x[0]), x[1]); }
  static DK_INLINE U integers(const D* x) {
    return vreinterpretq_u32_s32(vcombine_s32(vmovn_s64(vcvtq_s64_f64(x[0])), vmovn_s64(vcvtq_s64_f64(x[1]))));
  }

  using Wide = uint64x2_t;  // part 0 holds the even lanes, part 1 the odd ones
  static constexpr int kWides = 2;
  static DK_INLINE Wide wide_counter(uint64_t first, int part) {
    return vaddq_u64(vdupq_n_u64(first + uint64_t(part)), vcombine_u64(vcreate_u64(0), vcreate_u64(2)));
  }
  static DK_INLINE Wide wide_splat(uint32_t x) { return vdupq_n_u64(x); }
  static DK_INLINE Wide wide_mul(Wide a, uint32_t b) { return vmull_n_u32(vmovn_u64(a), b); }
  static DK_INLINE Wide wide_high(Wide a) { return vshrq_n_u64(a, 32); }
  static DK_INLINE Wide wide_xor(Wide a, Wide b) { return veorq_u64(a, b); }
  static DK_INLINE Wide wide_xor3(Wide a, Wide b, Wide c) { return veorq_u64(a, veorq_u64(b, c)); }
  static DK_INLINE U wide_join(Wide even, Wide odd) {
    return vtrn1q_u32(vreinterpretq_u32_u64(even), vreinterpretq_u32_u64(odd));
  }

 private:
  template <class T>
  static DK_INLINE uint16x4_t halves(const T* p) {
    return vld1_u16(reinterpret_cast<const uint16_t*>(p));
  }
  template <class T>
  static DK_INLINE void store_halves(T* p, uint16x4_t x) {
    vst1_u16(reinterpret_cast<uint16_t*>(p), x);
  }
  static DK_INLINE M is_nan(F x) { return vmvnq_u32(vceqq_f32(x, x)); }
};

DK_NAMESPACE_END
