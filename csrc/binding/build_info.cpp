#include "build_info.h"

#define DISTILLKAC_ARCH portable
#include "build_stamp.h"  // generated: DISTILLKAC_COMMIT, DISTILLKAC_SOURCE_HASH, DISTILLKAC_CUDA_PROBLEM
#include "../telegraph/quantile.h"

#ifndef DISTILLKAC_CUDA_VERSION
#define DISTILLKAC_CUDA_VERSION ""
#define DISTILLKAC_CUDA_ARCHITECTURES ""
#endif

namespace distillkac {

BuildInfo build_info() {
#if defined(__clang__)
  const std::string compiler = "clang " __clang_version__;
#else
  const std::string compiler = "gcc " __VERSION__;
#endif
  return {compiler,          DISTILLKAC_CUDA_VERSION, DISTILLKAC_CUDA_ARCHITECTURES, DISTILLKAC_CUDA_PROBLEM,
          DISTILLKAC_COMMIT, DISTILLKAC_SOURCE_HASH};
}

std::pair<std::vector<float>, std::vector<float>> exported_quantile_table() {
  const QuantileTable table = quantile_table();
  return {{table.fast, table.fast + kQuantileNodes * kQuantileFast},
          {table.deep, table.deep + kQuantileNodes * kQuantileDeep}};
}

}  // namespace distillkac
