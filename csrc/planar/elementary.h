// log and sin/cos in float32 from integers, with the same bits on every target (tools/fit_elementary.py): the inputs
// are random words, so argument reduction is exact.
#pragma once
#include "../lanes/lanes.h"

DK_NAMESPACE_BEGIN

// log1p(r) = r - r^2/2 + r^3 P(r), r in [sqrt(1/2) - 1, sqrt(2) - 1]; relative error of log U: 8.2e-8.
constexpr float kLog0 = 0.333333313f, kLog1 = -0.250008196f, kLog2 = 0.200012416f, kLog3 = -0.166234091f;
constexpr float kLog4 = 0.1420158f, kLog5 = -0.131596103f, kLog6 = 0.127622172f, kLog7 = -0.0763643906f;
// sin(pi/2 y) = y S(y^2), cos(pi/2 y) = C(y^2), |y| <= 1/2; absolute error 8e-8.
constexpr float kSin0 = 1.57079637f, kSin1 = -0.645966649f, kSin2 = 0.079712525f, kSin3 = -0.00468597142f;
constexpr float kCos1 = -1.23370051f, kCos2 = 0.253668517f, kCos3 = -0.0208552517f, kCos4 = 0.000893558783f;
constexpr float kLn2 = 0.693147182f;

// -log(U) for U = (word + 1/2) / 2^32, accurate at both ends: close to U = 1 it works with 1 - U.
template <class V>
DK_INLINE typename V::F minus_log_uniform(typename V::U word) {
  using F = typename V::F;
  using U = typename V::U;
  const typename V::M upper = V::negative(word);  // U >= 1/2
  const U rest = V::select_bits(upper, V::bxor(word, V::splat_bits(0xffffffffu)), word);
  const F f = V::fma(V::signed_to_float(rest), V::splat(0x1p-32f), V::splat(0x1p-33f));  // min(U, 1 - U)

  // U < 1/2: f = m 2^e with m in [sqrt(1/2), sqrt(2)); r = m - 1.
  const U bits = V::sub_bits(V::bits(f), V::splat_bits(0x3f3504f3u));  // subtracting sqrt(1/2) makes the exponent round
  const F exponent_lower = V::signed_to_float(
      V::sub_bits(V::template shift_right<23>(V::add_bits(bits, V::splat_bits(0x40000000u))), V::splat_bits(128u)));
  const U mantissa = V::add_bits(V::band(bits, V::splat_bits(0x7fffffu)), V::splat_bits(0x3f3504f3u));
  const F r_lower = V::from_bits(mantissa) - V::splat(1.f);
  // U >= 1/2: U = 1 - f, or 2 (1 - f) / 2 below sqrt(1/2); both remainders are exact.
  const typename V::M near_one = V::less(f, V::splat(0.29289323f));
  const F r_upper = V::select(near_one, V::splat(0.f) - f, V::splat(1.f) - (f + f));
  const F exponent_upper = V::select(near_one, V::splat(0.f), V::splat(-1.f));

  const F r = V::select(upper, r_upper, r_lower), exponent = V::select(upper, exponent_upper, exponent_lower);
  F p = V::fma(V::splat(kLog7), r, V::splat(kLog6));
  p = V::fma(p, r, V::splat(kLog5));
  p = V::fma(p, r, V::splat(kLog4));
  p = V::fma(p, r, V::splat(kLog3));
  p = V::fma(p, r, V::splat(kLog2));
  p = V::fma(p, r, V::splat(kLog1));
  p = V::fma(p, r, V::splat(kLog0));
  const F log1p = V::fma(r * r, V::fma(r, p, V::splat(-.5f)), r);
  return V::splat(0.f) - V::fma(exponent, V::splat(kLn2), log1p);
}

// (cos, sin) of the angle 2 pi word / 2^32.
template <class V>
DK_INLINE void direction(typename V::U word, typename V::F& cosine, typename V::F& sine) {
  using F = typename V::F;
  using U = typename V::U;
  const U quarter = V::template shift_right<30>(V::add_bits(word, V::splat_bits(0x20000000u)));  // nearest quarter turn
  const F y = V::signed_to_float(V::template shift_left<2>(word)) * V::splat(0x1p-32f);          // and the rest of it
  const F y2 = y * y;
  const F s =
      y * V::fma(V::fma(V::fma(V::splat(kSin3), y2, V::splat(kSin2)), y2, V::splat(kSin1)), y2, V::splat(kSin0));
  const F c =
      V::fma(V::fma(V::fma(V::fma(V::splat(kCos4), y2, V::splat(kCos3)), y2, V::splat(kCos2)), y2, V::splat(kCos1)), y2,
             V::splat(1.f));
  const typename V::M odd = V::negative(V::template shift_left<31>(quarter));
  // Quarters 1 and 2 turn the sign of the cosine, 2 and 3 that of the sine.
  const U sine_sign = V::template shift_left<31>(V::template shift_right<1>(quarter));
  const U cosine_sign = V::bxor(sine_sign, V::template shift_left<31>(quarter));
  cosine = V::from_bits(V::bxor(V::bits(V::select(odd, s, c)), cosine_sign));
  sine = V::from_bits(V::bxor(V::bits(V::select(odd, c, s)), sine_sign));
}

DK_NAMESPACE_END
