// CUDA: the training pair (x_0, t) -> (x_t, u) in one pass, 12 bytes an element in float32; with the state at a second
// time of the same path 16.
#include "cuda_draws.cuh"
#include "kac_pair.h"

DK_NAMESPACE_BEGIN

template <class T, class Shared>
__global__ void __launch_bounds__(kThreads, Shared::kResidentPair)
    kac_pair_kernel(KacPairArgs args, QuantileTable table, int64_t chunk_size) {
  __shared__ Shared shared;
  __shared__ Ahead<T> ahead;
  const int64_t units = units_in(args.rows, chunk_size);
  for (int64_t index = blockIdx.x; index < units; index += gridDim.x) {
    const Chunk chunk = chunk_of(args.rows, chunk_size, index);
    const double t = row_time(args.t, chunk.row);
    const BridgeRow row = bridge_row(t, args.f, args.g, args.kappa);
    const Bridge<Scalar> bridge(row);
    prepare(shared, age(t, args.g), args.kac, args.seed, chunk, table);
    const int64_t start = chunk.row * args.rows.width + chunk.begin;
    const T* x0 = static_cast<const T*>(args.x0) + start;
    T *x_t = static_cast<T*>(args.x_t) + start, *u = static_cast<T*>(args.u) + start;
    const bool whole = in_whole_groups(length_of(chunk), x0, x_t, u);
    for_each_draw<true>(
        chunk, whole, [&](auto access, int j, int64_t i) { ahead.ask(access, j, x0 + i); },
        [&](auto access, int j, int64_t i, const Four& k, const Four& v, const Four&) {
          Four data, noised, target;
          ahead.get(access, j, x0 + i, data.of);
          DK_UNROLL
          for (int n = 0; n < 4; ++n) {
            noised.of[n] = bridge.x_t(data.of[n], k.of[n]);
            target.of[n] = bridge.u(data.of[n], v.of[n]);
          }
          access.store(x_t + i, noised.of);
          access.store(u + i, target.of);
        },
        shared);
  }
}

template <class T, class Shared>
__global__ void __launch_bounds__(kThreads, Shared::kResidentPair)
    kac_pair_to_kernel(KacPairArgs args, QuantileTable table, int64_t chunk_size) {
  __shared__ Shared shared, shared_to;
  __shared__ Ahead<T> ahead;
  const int64_t units = units_in(args.rows, chunk_size);
  for (int64_t index = blockIdx.x; index < units; index += gridDim.x) {
    const Chunk chunk = chunk_of(args.rows, chunk_size, index);
    const double t = row_time(args.t, chunk.row), t_to = row_time(args.t_to, chunk.row);
    const BridgeRow row = bridge_row(t, args.f, args.g, args.kappa);
    const BridgeRow row_to = bridge_row(t_to, args.f, args.g, args.kappa);
    const Bridge<Scalar> bridge(row), bridge_to(row_to);
    prepare(shared, age(t, args.g), args.kac, args.seed, chunk, table);
    prepare(shared_to, age(t_to, args.g), args.kac, args.seed, chunk, table);
    const int64_t start = chunk.row * args.rows.width + chunk.begin;
    const T* x0 = static_cast<const T*>(args.x0) + start;
    T *x_t = static_cast<T*>(args.x_t) + start, *u = static_cast<T*>(args.u) + start;
    T* x_to = static_cast<T*>(args.x_to) + start;
    const bool whole = in_whole_groups(length_of(chunk), x0, x_t, u, x_to);
    for_each_draw<true>(
        chunk, whole, [&](auto access, int j, int64_t i) { ahead.ask(access, j, x0 + i); },
        [&](auto access, int j, int64_t i, const Four& k, const Four& v, const Four& k_to) {
          Four data, noised, target, noised_to;
          ahead.get(access, j, x0 + i, data.of);
          DK_UNROLL
          for (int n = 0; n < 4; ++n) {
            noised.of[n] = bridge.x_t(data.of[n], k.of[n]);
            target.of[n] = bridge.u(data.of[n], v.of[n]);
            noised_to.of[n] = bridge_to.x_t(data.of[n], k_to.of[n]);
          }
          access.store(x_t + i, noised.of);
          access.store(u + i, target.of);
          access.store(x_to + i, noised_to.of);
        },
        shared, shared_to);
  }
}

template <class T, class Shared>
static int launch_of(const KacPairArgs& args, const QuantileTable& table, cudaStream_t stream) {
  const int64_t chunk_size = draw_chunk(args.rows);
  const unsigned blocks = blocks_for(units_in(args.rows, chunk_size));
  if (args.x_to)
    kac_pair_to_kernel<T, Shared><<<blocks, kThreads, 0, stream>>>(args, table, chunk_size);
  else
    kac_pair_kernel<T, Shared><<<blocks, kThreads, 0, stream>>>(args, table, chunk_size);
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
