// What a processor must have for each level of the CPU kernels: asked when they are first used, and by a build for this
// one alone.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>

namespace distillkac {

inline bool has_avx2() {
  __builtin_cpu_init();
  // clang before 18 does not know __builtin_cpu_supports("f16c").
  unsigned eax, ebx, ecx, edx;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
  return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

inline bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

}  // namespace distillkac
#endif
