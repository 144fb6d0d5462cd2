// CUDA: K_t for the rows of t. Bound by Philox and the quantile polynomial, about 30 float operations a draw.
#include "cuda_draws.cuh"

DK_NAMESPACE_BEGIN

template <class T, class Shared>
__global__ void __launch_bounds__(kThreads, Shared::kResident)
    kac_noise_kernel(KacNoiseArgs args, QuantileTable table, int64_t chunk_size) {
  __shared__ Shared shared;
  const int64_t units = units_in(args.rows, chunk_size);
  for (int64_t index = blockIdx.x; index < units; index += gridDim.x) {
    const Chunk chunk = chunk_of(args.rows, chunk_size, index);
    prepare(shared, row_time(args.t, chunk.row), args.kac, args.seed, chunk, table);
    T* out = static_cast<T*>(args.out) + chunk.row * args.rows.width + chunk.begin;
    const bool whole = in_whole_groups(length_of(chunk), out);
    for_each_draw<false>(
        chunk, whole, [](auto, int, int64_t) {},
        [&](auto access, int, int64_t i, const Four& k, const Four&, const Four&) { access.store(out + i, k.of); },
        shared);
  }
}

template <class T>
static int launch(const KacNoiseArgs& args, cudaStream_t stream) {
  QuantileTable table;
  if (const int error = quantile_table_cuda(&table)) return error;
  const int64_t chunk_size = draw_chunk(args.rows);
  const unsigned blocks = blocks_for(units_in(args.rows, chunk_size));
  switch (args.kac.process) {
    case Process::kTelegraph:
      kac_noise_kernel<T, TelegraphShared><<<blocks, kThreads, 0, stream>>>(args, table, chunk_size);
      return cudaGetLastError();
    case Process::kPlanar:
      kac_noise_kernel<T, PlanarShared><<<blocks, kThreads, 0, stream>>>(args, table, chunk_size);
      return cudaGetLastError();
    case Process::kQuad:
      kac_noise_kernel<T, QuadShared><<<blocks, kThreads, 0, stream>>>(args, table, chunk_size);
      return cudaGetLastError();
  }
  DK_UNREACHABLE();
}

DK_NAMESPACE_END

int distillkac::kac_noise_cuda(const KacNoiseArgs& args, void* stream) {
  return DISTILLKAC_ARCH::with_dtype(args.dtype, [&](auto element) {
    return DISTILLKAC_ARCH::launch<decltype(element)>(args, static_cast<cudaStream_t>(stream));
  });
}
