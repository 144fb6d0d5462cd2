// What a kernel is told: one plain struct per op, shared by the CPU loops, the CUDA kernels and the bindings.
// No torch here: the .cu files and the tests' CPU emulation compile against this header alone.
#pragma once
#include <cstdint>

namespace distillkac {

// What the kernels choose by, in switches without a default: a new enumerator is an error wherever it is not served.
// What else a new schedule needs: README.md.
enum class Process : int32_t { kTelegraph = 0, kPlanar = 1, kQuad = 2 };
enum class Dtype : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };
enum class FSchedule : int32_t { kLinear = 0, kCosine = 1, kExp = 2 };  // f(t): 1 - t, cos(pi t / 2), exp(-kappa t)
enum class GSchedule : int32_t { kLinear = 0, kQuadratic = 1 };         // g(t): t, t^2

// One scalar per row: a tensor of them if `data` is set, else the same `value` for every row.
struct RowScalar {
  const void* data = nullptr;
  bool is_double = false;
  double value = 0;
};

// Where randomness comes from: the draw of element i of row b depends on (seed, row_offset + b, i) alone.
struct Seed {
  const int64_t* data = nullptr;  // on the op's device; read by the kernel, so that a graph replay sees a new value
  int64_t value = 0;              // used when data is null
  int64_t row_offset = 0;
};

struct Rows {
  int64_t count = 0;  // B
  int64_t width = 0;  // D, elements of one row, contiguous
};

// A Kac process: its rate of turns and its speed.
struct Kac {
  Process process;
  double a, c;
};

struct KacNoiseArgs {
  void* out;    // (B, D)
  RowScalar t;  // (B,)
  Rows rows;
  Dtype dtype;
  Kac kac;
  Seed seed;
};

struct KacVelocityArgs {
  const void* k;  // (B, D)
  void* v;        // (B, D)
  RowScalar t;    // (B,)
  Rows rows;
  Dtype dtype;
  Kac kac;
};

struct KacPairArgs {
  const void* x0;  // (B, D)
  void* x_t;       // (B, D)
  void* u;         // (B, D)
  RowScalar t;     // (B,)
  Rows rows;
  Dtype dtype;
  Kac kac;
  FSchedule f;
  GSchedule g;
  double kappa;
  Seed seed;
  void* x_to = nullptr;  // (B, D), the state at t_to of the same path, or null
  RowScalar t_to = {};   // (B,)
};

// The largest speed that guided velocities may have: of each coordinate (telegraph), each pair (planar) or each
// group of four (quad).
struct SpeedLimit {
  Process process;
  double most;  // +inf: unbounded
};

struct GuidedVelocityArgs {
  const void* u_cond;    // (B, D)
  const void* u_uncond;  // (B, D)
  void* u;               // (B, D)
  RowScalar w;           // (B,)
  Rows rows;
  Dtype dtype;
  SpeedLimit limit;
};

struct GuidedStepArgs {
  const void* x;         // (B, D)
  const void* u_cond;    // (B, D)
  const void* u_uncond;  // (B, D), or null: no guidance
  const void* u_prev;    // (B, D), or null: an Euler step
  void* x_next;          // (B, D), may be x
  void* u;               // (B, D), may be u_prev
  RowScalar w, h, h_prev;
  Rows rows;
  Dtype dtype;
  SpeedLimit limit;
};

struct EndpointLossArgs {
  const void* x;      // (B, D)
  const void* u;      // (B, D)
  const void* x_end;  // (B, D)
  float* grad_u;      // (B, D); float32 for every dtype: 16 bits would lose gradients near 1e-7
  RowScalar delta;    // (B,)
  RowScalar weight;   // (B,)
  Rows rows;
  Dtype dtype;
  double* partial_sums;  // (B, chunks_per_row(D, kLossChunk)): workspace, summed in order
  float* loss;           // ()
};

// Group normalisation of images whose channels are last in memory, (B, positions, C). On the CPU alone: a GPU's is
// torch's.
struct GroupNormArgs {
  const void* x;             // (B, positions, C)
  void* y;                   // the same
  const float* weight;       // (C,)
  const float* bias;         // (C,)
  float* mean;               // (B, groups)
  float* inverse_deviation;  // (B, groups), 1 / sqrt(variance + eps)
  Rows rows;                 // width: positions times C
  int64_t channels, groups;
  double eps;
  bool silu;  // whether y = silu(normalised x)
  Dtype dtype;
};

struct GroupNormGradArgs {
  const void* x;                   // (B, positions, C)
  const void* grad_y;              // the same
  void* grad_x;                    // the same
  const float* weight;             // (C,)
  const float* bias;               // (C,)
  const float* mean;               // (B, groups)
  const float* inverse_deviation;  // (B, groups)
  float* sums;                     // (B, 2, C): each row's part of the gradients of bias and weight
  Rows rows;
  int64_t channels, groups;
  bool silu;
  Dtype dtype;
};

// Work is cut into chunks of a row, at the same places for any number of threads.
constexpr int64_t kChunk = 16384;     // on the CPU; a multiple of 64, the elements of one block of random words
constexpr int64_t kLossChunk = 2048;  // of the loss, on CPU and CUDA: each chunk has one partial sum

// Inlined everywhere: the linker would keep one copy for all SIMD levels, which might be that of the widest.
#if defined(__CUDACC__)
#define DISTILLKAC_EVERYWHERE __host__ __device__ constexpr
#else
#define DISTILLKAC_EVERYWHERE __attribute__((always_inline)) constexpr
#endif
DISTILLKAC_EVERYWHERE int64_t chunks_per_row(int64_t width, int64_t chunk) { return (width + chunk - 1) / chunk; }
DISTILLKAC_EVERYWHERE int64_t units_in(const Rows& rows, int64_t chunk) {
  return rows.count * chunks_per_row(rows.width, chunk);
}

// A CPU loop does the work units [begin, end); false: a value is out of range (each op says which).
struct CpuKernels {
  bool (*kac_noise)(const KacNoiseArgs&, int64_t begin, int64_t end);
  bool (*kac_velocity)(const KacVelocityArgs&, int64_t begin, int64_t end);
  bool (*kac_velocity_covers)(const KacVelocityArgs&, int64_t begin, int64_t end);  // looks, and writes nothing
  bool (*kac_pair)(const KacPairArgs&, int64_t begin, int64_t end);
  bool (*guided_velocity)(const GuidedVelocityArgs&, int64_t begin, int64_t end);
  bool (*guided_step)(const GuidedStepArgs&, int64_t begin, int64_t end);
  bool (*endpoint_loss)(const EndpointLossArgs&, int64_t begin, int64_t end);
  bool (*group_norm)(const GroupNormArgs&, int64_t begin, int64_t end);
  bool (*group_norm_grad)(const GroupNormGradArgs&, int64_t begin, int64_t end);
};
const CpuKernels& cpu_kernels();  // of the SIMD level in use: binding/simd_dispatch.cpp

// Each returns a cudaError_t (0 = launched); `stream` is a cudaStream_t.
int kac_noise_cuda(const KacNoiseArgs&, void* stream);
int kac_velocity_cuda(const KacVelocityArgs&, void* stream);
int kac_pair_cuda(const KacPairArgs&, void* stream);
int guided_velocity_cuda(const GuidedVelocityArgs&, void* stream);
int guided_step_cuda(const GuidedStepArgs&, void* stream);
int endpoint_loss_cuda(const EndpointLossArgs&, void* stream);
const char* cuda_error_string(int error);

}  // namespace distillkac
