// The quantile master table in host memory; the numbers are generated at build time from quantile_table.bin.
#define DISTILLKAC_ARCH portable
#include "quantile.h"

namespace distillkac {

alignas(64) static const float kTable[] = {
#include "quantile_table.inc"
};
static_assert(sizeof(kTable) == sizeof(float) * kQuantileNodes * (kQuantileFast + kQuantileDeep),
              "quantile_table.bin has another layout than quantile.h says");

QuantileTable quantile_table() { return {kTable, kTable + kQuantileNodes * kQuantileFast}; }

}  // namespace distillkac
