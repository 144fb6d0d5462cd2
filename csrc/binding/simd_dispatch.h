// Which build of the CPU loops runs: the widest the processor has, or a lower one when told so (tests run them all).
#pragma once
#include <string>
#include <vector>

#define DISTILLKAC_EXPORT __attribute__((visibility("default")))

namespace distillkac {

DISTILLKAC_EXPORT std::vector<std::string> simd_levels();  // those this build and this processor have, narrowest first
DISTILLKAC_EXPORT std::string simd_level();                // the one in use
DISTILLKAC_EXPORT bool set_simd_level(const std::string& level);  // false: not among simd_levels()

}  // namespace distillkac
