// The quantile master table in host memory; the numbers are generated at build time from quantile_table.bin.
#define DISTILLKAC_ARCH portable
#include "quantile.h"

#include <array>

namespace distillkac {

alignas(64) static constexpr float kTable[] = {
#include "quantile_table.inc"
};
static_assert(sizeof(kTable) == sizeof(float) * kQuantileNodes * (kQuantileFast + kQuantileDeep),
              "quantile_table.bin has another layout than quantile.h says");

alignas(64) static constexpr auto kByOctave = [] {
  std::array<float, kQuantileNodes * kQuantileByOctave> table{};
  for (int node = 0; node < kQuantileNodes; ++node)
    for (int k = 0; k < 7; ++k)
      for (int octave = 0; octave < 16; ++octave)
        table[node * kQuantileByOctave + octave * 8 + k] = kTable[node * kQuantileFast + k * 16 + octave];
  return table;
}();

QuantileTable quantile_table() { return {kTable, kTable + kQuantileNodes * kQuantileFast, kByOctave.data()}; }

}  // namespace distillkac
