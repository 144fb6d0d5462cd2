// The words that differ between compilers. DISTILLKAC_ARCH (portable, neon, avx2, avx512, cuda) names the target a file
// is being compiled for; everything inline lives in a namespace of that name, so that the linker never merges, say, an
// AVX-512 copy of a function with the portable one.
#pragma once
#include <cstdint>

#ifndef DISTILLKAC_ARCH
#error "compile with -DDISTILLKAC_ARCH=portable|neon|avx2|avx512|cuda"
#endif

#if defined(__CUDACC__)
#define DK_INLINE __host__ __device__ __forceinline__
#define DK_UNLIKELY(x) (x)
#define DK_UNROLL _Pragma("unroll")
#else
#define DK_INLINE inline __attribute__((always_inline))
#define DK_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define DK_UNROLL _Pragma("GCC unroll 16")
#define DK_INLINE_LAMBDA __attribute__((always_inline))
#endif

// After a switch that serves every enumerator; the build makes a missing one an error. No default: it would hide that.
#define DK_UNREACHABLE() __builtin_trap()

#define DK_NAMESPACE_BEGIN \
  namespace distillkac {   \
  namespace DISTILLKAC_ARCH {
#define DK_NAMESPACE_END \
  }                      \
  }
