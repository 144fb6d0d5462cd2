// CUDA: guidance and an Euler or AB-2 step in one pass: 24 bytes an element in float32. x_next may be x, u may be
// u_prev: a group is read whole before it is written.
#include "cuda_guidance.cuh"
#include "guided_step.h"

DK_NAMESPACE_BEGIN

template <class T, int kGroup>
__global__ void __launch_bounds__(kThreads) guided_step_kernel(GuidedStepArgs args) {
  const int64_t units = units_in(args.rows, kCudaChunk);
  for (int64_t index = blockIdx.x; index < units; index += gridDim.x) {
    const Chunk chunk = chunk_of(args.rows, kCudaChunk, index);
    const StepRow row = step_row(args, chunk.row);
    const float max_speed = float(args.limit.most);
    const int64_t start = chunk.row * args.rows.width + chunk.begin;
    const auto from_here = [&](const void* p) { return p ? static_cast<const T*>(p) + start : nullptr; };
    const T *x_of = from_here(args.x), *cond = from_here(args.u_cond);
    const T *uncond = from_here(args.u_uncond), *prev = from_here(args.u_prev);
    T *u_out = static_cast<T*>(args.u) + start, *x_next = static_cast<T*>(args.x_next) + start;
    const int length = length_of(chunk);
    const bool whole = in_whole_groups(length, x_of, cond, uncond, prev, u_out, x_next);
    for_each_group<2>(length, whole, [&](auto access, int i) {
      float u[access.kCount], other[access.kCount], before[access.kCount], x[access.kCount];
      access.load(cond + i, u);
      access.load(x_of + i, x);
      if (args.u_prev) access.load(prev + i, before);
      if (args.u_uncond) {
        access.load(uncond + i, other);
        DK_UNROLL
        for (int n = 0; n < access.kCount; ++n) u[n] = guided<Scalar>(u[n], other[n], row.w);
      }
      limit<kGroup>(u, max_speed);
      DK_UNROLL
      for (int n = 0; n < access.kCount; ++n)
        x[n] = stepped<Scalar>(x[n], u[n], before[n], row, args.u_prev != nullptr);
      access.store(u_out + i, u);
      access.store(x_next + i, x);
    });
  }
}

template <class T>
static int launch(const GuidedStepArgs& args, cudaStream_t stream) {
  const unsigned blocks = blocks_for(units_in(args.rows, kCudaChunk));
  with_group(args.limit, [&](auto group) { guided_step_kernel<T, group()><<<blocks, kThreads, 0, stream>>>(args); });
  return cudaGetLastError();
}

DK_NAMESPACE_END

int distillkac::guided_step_cuda(const GuidedStepArgs& args, void* stream) {
  return DISTILLKAC_ARCH::with_dtype(args.dtype, [&](auto element) {
    return DISTILLKAC_ARCH::launch<decltype(element)>(args, static_cast<cudaStream_t>(stream));
  });
}
