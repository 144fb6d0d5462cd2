// Ends with the place of this processor's best level among portable, avx2 and avx512: CMakeLists.txt asks, for
// DISTILLKAC_CPU=NATIVE.
#include "cpu_levels.h"

int main() { return distillkac::has_avx512() ? 2 : distillkac::has_avx2() ? 1 : 0; }
