// CUDA: the conditional velocity of given displacements; NaN where no particle can be (|k| > c t beyond rounding).
#include "../planar/flight.h"
#include "../quad/flight.h"
#include "../telegraph/velocity.h"
#include "cuda_common.cuh"
#include "kac_velocity.h"

DK_NAMESPACE_BEGIN

template <class T>
__global__ void __launch_bounds__(kThreads) telegraph_velocity_kernel(KacVelocityArgs args) {
  const int64_t units = units_in(args.rows, kCudaChunk);
  for (int64_t index = blockIdx.x; index < units; index += gridDim.x) {
    const Chunk chunk = chunk_of(args.rows, kCudaChunk, index);
    const double t = row_time(args.t, chunk.row);
    const bool valid = row_is_valid(t, args.kac.a, args.kac.c);
    const TelegraphVelocityRow row = telegraph_velocity_row(valid ? t : 0.0, args.kac.a, args.kac.c);
    const float limit = cone_limit(row.cone, cone_rounding(T{})) * row.cone.unscale;
    const int64_t start = chunk.row * args.rows.width + chunk.begin;
    const T* k = static_cast<const T*>(args.k) + start;
    T* v = static_cast<T*>(args.v) + start;
    const int length = length_of(chunk);
    for_each_group<1>(length, in_whole_groups(length, k, v), [&](auto access, int i) {
      float x[access.kCount], result[access.kCount];
      access.load(k + i, x);
      DK_UNROLL
      for (int n = 0; n < access.kCount; ++n) {
        const float ax = Scalar::abs(x[n]);
        result[n] = telegraph_velocity<Scalar>(x[n], ax >= row.cone.radius, row);
        if (!valid || ax > limit) result[n] = NAN;
      }
      access.store(v + i, result);
    });
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) planar_velocity_kernel(KacVelocityArgs args) {
  const int64_t units = units_in(args.rows, kCudaChunk);
  for (int64_t index = blockIdx.x; index < units; index += gridDim.x) {
    const Chunk chunk = chunk_of(args.rows, kCudaChunk, index);
    const double t = row_time(args.t, chunk.row);
    const bool valid = row_is_valid(t, args.kac.a, args.kac.c);
    const PlanarVelocityRow row = planar_velocity_row(valid ? t : 0.0, args.kac.c);
    const float limit = cone_limit(row.cone, cone_rounding(T{}));
    const int64_t start = chunk.row * args.rows.width + chunk.begin;
    const T* k = static_cast<const T*>(args.k) + start;
    T* v = static_cast<T*>(args.v) + start;
    const int length = length_of(chunk);
    for_each_group<1>(length, in_whole_groups(length, k, v), [&](auto access, int i) {
      float x[access.kCount], result[access.kCount];
      access.load(k + i, x);
      DK_UNROLL
      for (int n = 0; n < access.kCount; n += 2) {
        planar_velocity<Scalar>(row, x[n], x[n + 1], result[n], result[n + 1]);
        const float xs = x[n] * row.cone.scale, ys = x[n + 1] * row.cone.scale;
        if (!valid || Scalar::fma(xs, xs, ys * ys) > limit * limit) result[n] = result[n + 1] = NAN;
      }
      access.store(v + i, result);
    });
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) quad_velocity_kernel(KacVelocityArgs args) {
  const int64_t units = units_in(args.rows, kCudaChunk);
  for (int64_t index = blockIdx.x; index < units; index += gridDim.x) {
    const Chunk chunk = chunk_of(args.rows, kCudaChunk, index);
    const double t = row_time(args.t, chunk.row);
    const bool valid = row_is_valid(t, args.kac.a, args.kac.c);
    const ConeRounding rounding = cone_rounding(T{});
    const QuadVelocityRow row = quad_velocity_row(valid ? t : 0.0, args.kac.a, args.kac.c, rounding);
    const float limit = cone_limit(row.cone, rounding);
    const int64_t start = chunk.row * args.rows.width + chunk.begin;
    const T* k = static_cast<const T*>(args.k) + start;
    T* v = static_cast<T*>(args.v) + start;
    const int length = length_of(chunk);
    for_each_group<1>(length, in_whole_groups(length, k, v), [&](auto access, int i) {
      float x[access.kCount], result[access.kCount];
      access.load(k + i, x);
      const float size2 = quad_velocity<Scalar>(row, x, result);
      DK_UNROLL
      for (int n = 0; n < access.kCount; ++n)
        if (!valid || size2 > limit * limit) result[n] = NAN;
      access.store(v + i, result);
    });
  }
}

template <class T>
static int launch(const KacVelocityArgs& args, cudaStream_t stream) {
  const unsigned blocks = blocks_for(units_in(args.rows, kCudaChunk));
  switch (args.kac.process) {
    case Process::kTelegraph:
      telegraph_velocity_kernel<T><<<blocks, kThreads, 0, stream>>>(args);
      return cudaGetLastError();
    case Process::kPlanar:
      planar_velocity_kernel<T><<<blocks, kThreads, 0, stream>>>(args);
      return cudaGetLastError();
    case Process::kQuad:
      quad_velocity_kernel<T><<<blocks, kThreads, 0, stream>>>(args);
      return cudaGetLastError();
  }
  DK_UNREACHABLE();
}

DK_NAMESPACE_END

int distillkac::kac_velocity_cuda(const KacVelocityArgs& args, void* stream) {
  return DISTILLKAC_ARCH::with_dtype(args.dtype, [&](auto element) {
    return DISTILLKAC_ARCH::launch<decltype(element)>(args, static_cast<cudaStream_t>(stream));
  });
}
