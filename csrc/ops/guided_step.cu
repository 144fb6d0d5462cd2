// CUDA: guidance and an Euler or AB-2 step in one pass: 24 bytes an element in float32. x_next may be x, u may be
// u_prev: a group is read whole before it is written.
#include "cuda_guidance.cuh"
#include "guided_step.h"

DK_NAMESPACE_BEGIN

template <class T, bool kPairs>
__global__ void __launch_bounds__(kThreads) guided_step_kernel(GuidedStepArgs args) {
  const int64_t units = units_in(args.rows, kCudaChunk);
  for (int64_t index = blockIdx.x; index < units; index += gridDim.x) {
    const Chunk chunk = chunk_of(args.rows, kCudaChunk, index);
    const StepRow row = step_row(args, chunk.row);
    const float max_speed = float(args.limit.most);
    const int64_t start = chunk.row * args.rows.width;
    for_each_group(chunk, [&](int64_t i, int64_t count) {
      const int64_t at = start + i;
      float u[4], other[4], x[4];
      load_group(static_cast<const T*>(args.u_cond) + at, count, u);
      if (args.u_uncond) {
        load_group(static_cast<const T*>(args.u_uncond) + at, count, other);
        DK_UNROLL
        for (int n = 0; n < 4; ++n) u[n] = guided<Scalar>(u[n], other[n], row.w);
      }
      limit_group<kPairs>(u, max_speed);
      if (args.u_prev) load_group(static_cast<const T*>(args.u_prev) + at, count, other);
      load_group(static_cast<const T*>(args.x) + at, count, x);
      DK_UNROLL
      for (int n = 0; n < 4; ++n) x[n] = stepped<Scalar>(x[n], u[n], other[n], row, args.u_prev != nullptr);
      store_group(static_cast<T*>(args.u) + at, count, u);
      store_group(static_cast<T*>(args.x_next) + at, count, x);
    });
  }
}

template <class T>
static int launch(const GuidedStepArgs& args, cudaStream_t stream) {
  const unsigned blocks = blocks_for(units_in(args.rows, kCudaChunk));
  if (limits_pairs(args.limit))
    guided_step_kernel<T, true><<<blocks, kThreads, 0, stream>>>(args);
  else
    guided_step_kernel<T, false><<<blocks, kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

DK_NAMESPACE_END

int distillkac::guided_step_cuda(const GuidedStepArgs& args, void* stream) {
  return DISTILLKAC_ARCH::with_dtype(args.dtype, [&](auto element) {
    return DISTILLKAC_ARCH::launch<decltype(element)>(args, static_cast<cudaStream_t>(stream));
  });
}
