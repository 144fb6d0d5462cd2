// SiLU, z / (1 + exp(-z)), and its derivative, in float32 with the same bits on every target.
#pragma once
#include "../lanes/lanes.h"

DK_NAMESPACE_BEGIN

// exp(x) for |x| <= 86, to 2 ulp: 2^n exp(r), |r| <= ln 2 / 2, by the series of exp(r).
template <class V>
DK_INLINE typename V::F exp_in_range(typename V::F x) {
  using F = typename V::F;
  constexpr float kInverseFactorials[] = {1.f, 1.f, 1.f / 2, 1.f / 6, 1.f / 24, 1.f / 120, 1.f / 720, 1.f / 5040};
  const F magic = V::splat(0x1.8p23f);  // beside it a float32 has no fraction: adding it rounds
  const F shifted = V::fma(x, V::splat(1.44269504f), magic), n = shifted - magic;
  // ln 2 in two parts, the first of so few bits that its product with n is exact.
  const F r = V::fma(n, V::splat(2.12194440e-4f), V::fma(n, V::splat(-0.693359375f), x));
  F p = V::splat(kInverseFactorials[7]);
  DK_UNROLL
  for (int k = 6; k >= 0; --k) p = V::fma(p, r, V::splat(kInverseFactorials[k]));
  return V::from_bits(V::add_bits(V::bits(p), V::template shift_left<23>(V::bits(shifted))));
}

// 1 / (1 + exp(-z)). Beyond |z| = 86 it is 1, or less than 1e-37: then 0, which any z may be multiplied by.
template <class V>
DK_INLINE typename V::F sigmoid(typename V::F z) {
  const typename V::F most = V::splat(86.f), least = V::splat(-86.f), one = V::splat(1.f);
  const typename V::F x = V::max(V::min(V::splat(0.f) - z, most), least);
  return V::select(V::less(z, least), V::splat(0.f), one / (one + exp_in_range<V>(x)));
}

template <class V>
DK_INLINE typename V::F silu(typename V::F z) {
  return z * sigmoid<V>(z);
}

template <class V>
DK_INLINE typename V::F silu_derivative(typename V::F z) {
  const typename V::F s = sigmoid<V>(z);
  return s * V::fma(z, V::splat(1.f) - s, V::splat(1.f));
}

DK_NAMESPACE_END
