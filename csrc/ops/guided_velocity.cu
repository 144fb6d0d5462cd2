// CUDA: classifier-free guidance of velocities in one pass: 12 bytes an element in float32.
#include "cuda_guidance.cuh"

DK_NAMESPACE_BEGIN

template <class T, int kGroup>
__global__ void __launch_bounds__(kThreads) guided_velocity_kernel(GuidedVelocityArgs args) {
  const int64_t units = units_in(args.rows, kCudaChunk);
  for (int64_t index = blockIdx.x; index < units; index += gridDim.x) {
    const Chunk chunk = chunk_of(args.rows, kCudaChunk, index);
    const float w = float(row_scalar(args.w, chunk.row)), max_speed = float(args.limit.most);
    const int64_t start = chunk.row * args.rows.width + chunk.begin;
    const T *cond = static_cast<const T*>(args.u_cond) + start, *uncond = static_cast<const T*>(args.u_uncond) + start;
    T* out = static_cast<T*>(args.u) + start;
    const int length = length_of(chunk);
    for_each_group<2>(length, in_whole_groups(length, cond, uncond, out), [&](auto access, int i) {
      float u[access.kCount], other[access.kCount];
      access.load(cond + i, u);
      access.load(uncond + i, other);
      DK_UNROLL
      for (int n = 0; n < access.kCount; ++n) u[n] = guided<Scalar>(u[n], other[n], w);
      limit<kGroup>(u, max_speed);
      access.store(out + i, u);
    });
  }
}

template <class T>
static int launch(const GuidedVelocityArgs& args, cudaStream_t stream) {
  const unsigned blocks = blocks_for(units_in(args.rows, kCudaChunk));
  with_group(args.limit,
             [&](auto group) { guided_velocity_kernel<T, group()><<<blocks, kThreads, 0, stream>>>(args); });
  return cudaGetLastError();
}

DK_NAMESPACE_END

int distillkac::guided_velocity_cuda(const GuidedVelocityArgs& args, void* stream) {
  return DISTILLKAC_ARCH::with_dtype(args.dtype, [&](auto element) {
    return DISTILLKAC_ARCH::launch<decltype(element)>(args, static_cast<cudaStream_t>(stream));
  });
}
