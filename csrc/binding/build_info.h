// What this binary was built from and with. build_info.cpp is the one file that sees the build's own definitions.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "simd_dispatch.h"

namespace distillkac {

struct BuildInfo {
  std::string compiler, cuda, cuda_architectures, cuda_problem, commit, source_hash;
};
DISTILLKAC_EXPORT BuildInfo build_info();

// Copies of the two banks of the quantile table, for tests.
DISTILLKAC_EXPORT std::pair<std::vector<float>, std::vector<float>> exported_quantile_table();

}  // namespace distillkac
