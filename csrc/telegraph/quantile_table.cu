// The quantile master table in device memory, and what is common to all CUDA launches.
#include <cuda_runtime.h>

#include "../kernels.h"
#include "quantile.h"

namespace distillkac {

static __device__ const float kDeviceTable[] = {
#include "quantile_table.inc"
};

int quantile_table_cuda(QuantileTable* out) {
  void* table = nullptr;
  if (const int error = cudaGetSymbolAddress(&table, kDeviceTable)) return error;
  out->fast = static_cast<const float*>(table);
  out->deep = out->fast + kQuantileNodes * kQuantileFast;
  out->by_octave = nullptr;
  return 0;
}

const char* cuda_error_string(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace distillkac
