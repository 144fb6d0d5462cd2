// The CUDA entry points with flat arguments, for ctypes.
#include <cuda_runtime.h>

#include "kernels.h"

using namespace distillkac;

namespace {
RowScalar per_row(const double* data) { return {data, true, 0}; }
Seed seed_of(int64_t seed, int64_t offset) { return {nullptr, seed, offset}; }
}  // namespace

extern "C" {

int launches() { return emulation::launches; }

int kac_noise(void* out, const double* t, int64_t rows, int64_t width, int dtype, int process, double a, double c,
              int64_t seed, int64_t offset) {
  return kac_noise_cuda({out, per_row(t), {rows, width}, Dtype(dtype), {Process(process), a, c}, seed_of(seed, offset)},
                        nullptr);
}

int kac_velocity(const void* k, void* v, const double* t, int64_t rows, int64_t width, int dtype, int process, double a,
                 double c) {
  return kac_velocity_cuda({k, v, per_row(t), {rows, width}, Dtype(dtype), {Process(process), a, c}}, nullptr);
}

int kac_pair(const void* x0, void* x_t, void* u, void* x_to, const double* t, const double* t_to, int64_t rows,
             int64_t width, int dtype, int process, double a, double c, int f, int g, double kappa, int64_t seed,
             int64_t offset) {
  return kac_pair_cuda({x0,
                        x_t,
                        u,
                        per_row(t),
                        {rows, width},
                        Dtype(dtype),
                        {Process(process), a, c},
                        FSchedule(f),
                        GSchedule(g),
                        kappa,
                        seed_of(seed, offset),
                        x_to,
                        per_row(t_to)},
                       nullptr);
}

int guided_velocity(const void* u_cond, const void* u_uncond, void* u, const double* w, int64_t rows, int64_t width,
                    int dtype, int process, double max_speed) {
  return guided_velocity_cuda(
      {u_cond, u_uncond, u, per_row(w), {rows, width}, Dtype(dtype), {Process(process), max_speed}}, nullptr);
}

int guided_step(const void* x, const void* u_cond, const void* u_uncond, const void* u_prev, void* x_next, void* u,
                const double* w, const double* h, const double* h_prev, int64_t rows, int64_t width, int dtype,
                int process, double max_speed) {
  return guided_step_cuda({x,
                           u_cond,
                           u_uncond,
                           u_prev,
                           x_next,
                           u,
                           per_row(w),
                           per_row(h),
                           per_row(h_prev),
                           {rows, width},
                           Dtype(dtype),
                           {Process(process), max_speed}},
                          nullptr);
}

int endpoint_loss(const void* x, const void* u, const void* x_end, float* grad_u, const double* delta,
                  const double* weight, int64_t rows, int64_t width, int dtype, double* partial_sums, float* loss) {
  return endpoint_loss_cuda(
      {x, u, x_end, grad_u, per_row(delta), per_row(weight), {rows, width}, Dtype(dtype), partial_sums, loss}, nullptr);
}

}  // extern "C"
