#include "simd_dispatch.h"

#include <atomic>
#include <stdexcept>

#include "../kernels.h"
#include "cpu_levels.h"

namespace distillkac {

#ifdef DISTILLKAC_LEVEL_PORTABLE
namespace portable {
extern const CpuKernels kKernels;
}
#endif
#ifdef DISTILLKAC_LEVEL_NEON
namespace neon {
extern const CpuKernels kKernels;
}
#endif
#ifdef DISTILLKAC_LEVEL_AVX2
namespace avx2 {
extern const CpuKernels kKernels;
}
#endif
#ifdef DISTILLKAC_LEVEL_AVX512
namespace avx512 {
extern const CpuKernels kKernels;
}
#endif

namespace {

struct Level {
  const char* name;
  const CpuKernels* kernels;
};

const std::vector<Level>& levels() {
  static const std::vector<Level> all = [] {
    std::vector<Level> found;
#ifdef DISTILLKAC_LEVEL_PORTABLE
    found.push_back({"portable", &portable::kKernels});
#endif
#ifdef DISTILLKAC_LEVEL_NEON
    found.push_back({"neon", &neon::kKernels});  // part of every processor of 64 bits
#endif
#ifdef DISTILLKAC_LEVEL_AVX2
    if (has_avx2()) found.push_back({"avx2", &avx2::kKernels});
#endif
#ifdef DISTILLKAC_LEVEL_AVX512
    if (has_avx512()) found.push_back({"avx512", &avx512::kKernels});
#endif
    if (found.empty())
      throw std::runtime_error(
          "distillkac: the kernels were built for another processor alone (DISTILLKAC_CPU=NATIVE), whose instructions "
          "this one does not have: build them here, or with DISTILLKAC_CPU=ALL");
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
