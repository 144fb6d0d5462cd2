// Lanes: the same element code runs on one float (Scalar: portable build, loop tails, CUDA threads), four (Neon), eight
// (Avx2) or sixteen (Avx512). Intrinsics are in neon.h, avx2.h and avx512.h only. Every operation is IEEE-exact and
// every fused multiply-add is written out (compile with -ffp-contract=off), so all widths give the same bits.
#pragma once
#include "scalar.h"
#if !defined(__CUDACC__) && defined(__AVX2__)
#include "avx2.h"
#endif
#if !defined(__CUDACC__) && defined(__AVX512F__)
#include "avx512.h"
#endif
#if defined(DISTILLKAC_NEON)  // every ARM processor of 64 bits has it: the level is asked for, not the machine
#include "neon.h"
#endif

DK_NAMESPACE_BEGIN

// The widest of the level that is compiled.
#if !defined(__CUDACC__) && defined(__AVX512F__)
using Lanes = Avx512;
#elif !defined(__CUDACC__) && defined(__AVX2__)
using Lanes = Avx2;
#elif defined(DISTILLKAC_NEON)
using Lanes = Neon;
#else
using Lanes = Scalar;
#endif

// x, its sign turned where the top bit of `word` is set: the sign of a random word, or of a number's bits.
template <class V>
DK_INLINE typename V::F with_sign(typename V::F x, typename V::U word) {
  return V::from_bits(V::bxor(V::bits(x), V::band(word, V::splat_bits(0x80000000u))));
}

DK_NAMESPACE_END
