#include "simd_dispatch.h"

#include <atomic>
#ifdef DISTILLKAC_X86
#include <cpuid.h>
#endif

#include "../kernels.h"

namespace distillkac {

namespace portable {
extern const CpuKernels kKernels;
}
#ifdef DISTILLKAC_ARM
namespace neon {
extern const CpuKernels kKernels;
}
#endif
#ifdef DISTILLKAC_X86
namespace avx2 {
extern const CpuKernels kKernels;
}
namespace avx512 {
extern const CpuKernels kKernels;
}
#endif

namespace {

struct Level {
  const char* name;
  const CpuKernels* kernels;
};

#ifdef DISTILLKAC_X86
// clang before 18 does not know __builtin_cpu_supports("f16c").
bool has_f16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
#endif

const std::vector<Level>& levels() {
  static const std::vector<Level> all = [] {
    std::vector<Level> found = {{"portable", &portable::kKernels}};
#ifdef DISTILLKAC_ARM
    found.push_back({"neon", &neon::kKernels});  // part of every processor of 64 bits
#endif
#ifdef DISTILLKAC_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c())
      found.push_back({"avx2", &avx2::kKernels});
    if (found.size() == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      found.push_back({"avx512", &avx512::kKernels});
#endif
    return found;
  }();
  return all;
}

std::atomic<const Level*>& current() {
  static std::atomic<const Level*> level{&levels().back()};
  return level;
}

}  // namespace

const CpuKernels& cpu_kernels() { return *current().load(std::memory_order_relaxed)->kernels; }

std::vector<std::string> simd_levels() {
  std::vector<std::string> names;
  for (const Level& level : levels()) names.push_back(level.name);
  return names;
}

std::string simd_level() { return current().load()->name; }

bool set_simd_level(const std::string& name) {
  for (const Level& level : levels()) {
    if (name == level.name) {
      current().store(&level);
      return true;
    }
  }
  return false;
}

}  // namespace distillkac
