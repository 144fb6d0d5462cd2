// CUDA: loss and gradient in one pass, 16 bytes an element in float32. Each block writes the sum of its chunk, a second
// kernel of one block adds these in a fixed order: no atomics, the same bits on every run.
#include "cuda_common.cuh"
#include "endpoint_loss.h"

DK_NAMESPACE_BEGIN

constexpr int kSumThreads = 1024;

// The sum over the block, in thread 0; blockDim.x is a multiple of 32.
__device__ inline double block_sum(double value) {
  __shared__ double of_warp[32];
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_down_sync(0xffffffffu, value, distance);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  __syncthreads();  // of_warp may still be read from the sum before
  if (lane == 0) of_warp[warp] = value;
  __syncthreads();
  if (warp > 0) return 0;
  value = lane < int(blockDim.x) / 32 ? of_warp[lane] : 0;
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_down_sync(0xffffffffu, value, distance);
  return value;
}

template <class T>
__global__ void __launch_bounds__(kThreads) endpoint_loss_kernel(EndpointLossArgs args) {
  const int64_t units = units_in(args.rows, kLossChunk);
  for (int64_t index = blockIdx.x; index < units; index += gridDim.x) {
    const Chunk chunk = chunk_of(args.rows, kLossChunk, index);
    const LossRow row = loss_row(args, chunk.row);
    const int64_t start = chunk.row * args.rows.width + chunk.begin;
    const T *x_of = static_cast<const T*>(args.x) + start, *u_of = static_cast<const T*>(args.u) + start;
    const T* end_of = static_cast<const T*>(args.x_end) + start;
    float *grad_u = args.grad_u + start, sum = 0;
    const int length = length_of(chunk);
    for_each_group<2>(length, in_whole_groups(length, x_of, u_of, end_of, grad_u), [&](auto access, int i) {
      float x[access.kCount], u[access.kCount], x_end[access.kCount];
      access.load(x_of + i, x);
      access.load(u_of + i, u);
      access.load(end_of + i, x_end);
      DK_UNROLL
      for (int n = 0; n < access.kCount; ++n) {  // elements past the end were loaded as 0: their residual is 0
        const float r = residual<Scalar>(x[n], u[n], x_end[n], row);
        u[n] = row.grad_scale * r;
        sum = Scalar::fma(r, r, sum);
      }
      access.store(grad_u + i, u);
    });
    const double total = block_sum(double(sum) * row.loss_scale);
    if (threadIdx.x == 0) args.partial_sums[index] = total;
  }
}

__global__ void __launch_bounds__(kSumThreads)
    sum_in_order_kernel(const double* partial_sums, int64_t count, float* loss) {
  double sum = 0;
#pragma unroll 8  // so many reads under way, whose additions keep their order
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += partial_sums[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *loss = float(sum);
}

template <class T>
static int launch(const EndpointLossArgs& args, cudaStream_t stream) {
  const int64_t units = units_in(args.rows, kLossChunk);
  endpoint_loss_kernel<T><<<blocks_for(units), kThreads, 0, stream>>>(args);
  if (const int error = cudaGetLastError()) return error;
  sum_in_order_kernel<<<1, kSumThreads, 0, stream>>>(args.partial_sums, units, args.loss);
  return cudaGetLastError();
}

DK_NAMESPACE_END

int distillkac::endpoint_loss_cuda(const EndpointLossArgs& args, void* stream) {
  return DISTILLKAC_ARCH::with_dtype(args.dtype, [&](auto element) {
    return DISTILLKAC_ARCH::launch<decltype(element)>(args, static_cast<cudaStream_t>(stream));
  });
}
