// CUDA: the training pair (x_0, t) -> (x_t, u) in one pass, 12 bytes an element in float32; with the state at a second
// time of the same path 16.
#include "cuda_draws.cuh"
#include "kac_pair.h"

DK_NAMESPACE_BEGIN

template <class T, class Shared>
__global__ void __launch_bounds__(kThreads, Shared::kResident) kac_pair_kernel(KacPairArgs args, QuantileTable table) {
  __shared__ Shared shared;
  const int64_t units = units_in(args.rows, kCudaChunk);
  for (int64_t index = blockIdx.x; index < units; index += gridDim.x) {
    const Chunk chunk = chunk_of(args.rows, kCudaChunk, index);
    const double t = row_scalar(args.t, chunk.row);
    const BridgeRow row = bridge_row(t, args.f, args.g, args.kappa);
    const Bridge<Scalar> bridge(row);
    prepare(shared, t >= 0 ? row.g : double(NAN), args.kac, args.seed, chunk, table);
    const int64_t start = chunk.row * args.rows.width + chunk.begin;
    const T* x0 = static_cast<const T*>(args.x0) + start;
    T *x_t = static_cast<T*>(args.x_t) + start, *u = static_cast<T*>(args.u) + start;
    const bool whole = in_whole_groups(length_of(chunk), x0, x_t, u);
    for_each_draw<true>(
        chunk, whole,
        [&](auto access, int64_t i, const float k[4], const float v[4]) {
          float data[4], noised[4], target[4];
          access.load(x0 + i, data);
          DK_UNROLL
          for (int n = 0; n < 4; ++n) noised[n] = bridge.x_t(data[n], k[n]), target[n] = bridge.u(data[n], v[n]);
          access.store(x_t + i, noised);
          access.store(u + i, target);
        },
        shared);
  }
}

template <class T, class Shared>
__global__ void __launch_bounds__(kThreads, Shared::kResident)
    kac_pair_to_kernel(KacPairArgs args, QuantileTable table) {
  __shared__ Shared shared, shared_to;
  const int64_t units = units_in(args.rows, kCudaChunk);
  for (int64_t index = blockIdx.x; index < units; index += gridDim.x) {
    const Chunk chunk = chunk_of(args.rows, kCudaChunk, index);
    const double t = row_scalar(args.t, chunk.row), t_to = row_scalar(args.t_to, chunk.row);
    const BridgeRow row = bridge_row(t, args.f, args.g, args.kappa);
    const BridgeRow row_to = bridge_row(t_to, args.f, args.g, args.kappa);
    const Bridge<Scalar> bridge(row), bridge_to(row_to);
    prepare(shared, t >= 0 ? row.g : double(NAN), args.kac, args.seed, chunk, table);
    prepare(shared_to, t_to >= 0 ? row_to.g : double(NAN), args.kac, args.seed, chunk, table);
    const int64_t start = chunk.row * args.rows.width + chunk.begin;
    const T* x0 = static_cast<const T*>(args.x0) + start;
    T *x_t = static_cast<T*>(args.x_t) + start, *u = static_cast<T*>(args.u) + start;
    T* x_to = static_cast<T*>(args.x_to) + start;
    const bool whole = in_whole_groups(length_of(chunk), x0, x_t, u, x_to);
    for_each_draw<true>(
        chunk, whole,
        [&](auto access, int64_t i, const float k[4], const float v[4], const float k_to[4]) {
          float data[4], noised[4], target[4], noised_to[4];
          access.load(x0 + i, data);
          DK_UNROLL
          for (int n = 0; n < 4; ++n) {
            noised[n] = bridge.x_t(data[n], k[n]), target[n] = bridge.u(data[n], v[n]);
            noised_to[n] = bridge_to.x_t(data[n], k_to[n]);
          }
          access.store(x_t + i, noised);
          access.store(u + i, target);
          access.store(x_to + i, noised_to);
        },
        shared, shared_to);
  }
}

template <class T, class Shared>
static int launch_of(const KacPairArgs& args, const QuantileTable& table, cudaStream_t stream) {
  const unsigned blocks = blocks_for(units_in(args.rows, kCudaChunk));
  if (args.x_to)
    kac_pair_to_kernel<T, Shared><<<blocks, kThreads, 0, stream>>>(args, table);
  else
    kac_pair_kernel<T, Shared><<<blocks, kThreads, 0, stream>>>(args, table);
  return cudaGetLastError();
}

template <class T>
static int launch(const KacPairArgs& args, cudaStream_t stream) {
  QuantileTable table;
  if (const int error = quantile_table_cuda(&table)) return error;
  switch (args.kac.process) {
    case Process::kTelegraph:
      return launch_of<T, TelegraphShared>(args, table, stream);
    case Process::kPlanar:
      return launch_of<T, PlanarShared>(args, table, stream);
    case Process::kQuad:
      return launch_of<T, QuadShared>(args, table, stream);
  }
  DK_UNREACHABLE();
}

DK_NAMESPACE_END

int distillkac::kac_pair_cuda(const KacPairArgs& args, void* stream) {
  return DISTILLKAC_ARCH::with_dtype(args.dtype, [&](auto element) {
    return DISTILLKAC_ARCH::launch<decltype(element)>(args, static_cast<cudaStream_t>(stream));
  });
}
