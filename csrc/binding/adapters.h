// From tensors to the plain structs of kernels.h: check, make contiguous, allocate, launch on the tensors' device.
#pragma once
#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "arguments.h"
#include "devices.h"
#include "text.h"

namespace distillkac {

template <class Device>
void kac_noise_out(const Tensor& t, Tensor out, Text process, double a, double c, int64_t seed,
                   OptionalTensor seed_tensor, int64_t offset) {
  constexpr const char* op = "kac_noise";
  const Rows rows = rows_of(op, "out", out);
  check_rows(op, "t", t, rows.count);
  const Kac kac = kac_of(op, process, a, c);
  check_same_device(op, "out", out, t);
  check_out(op, out);
  check_groups(op, "size", kac.process, out);
  const Dtype dtype = element_type(op, "dtype", out.scalar_type());
  const Seed source = seed_of(op, seed, seed_tensor, offset, t);
  if (empty(rows)) return;
  const Tensor times = packed(t);
  check_apart(op, "out", out, "t", times);
  check_apart(op, "out", out, "seed", seed_tensor);
  KacNoiseArgs args{
      .out = out.mutable_data_ptr(),
      .t = row_data(times),
      .rows = rows,
      .dtype = dtype,
      .kac = kac,
      .seed = source,
  };
  Device(op, out).template run<&CpuKernels::kac_noise, kac_noise_cuda>(args, kChunk,
                                                                       "t must be finite and >= 0, with a*t <= 1e9");
}

template <class Device>
Tensor kac_noise(Tensor t, std::vector<int64_t> size, Text process, double a, double c, int64_t seed,
                 OptionalTensor seed_tensor, int64_t offset, ScalarType dtype) {
  check_rows("kac_noise", "t", t, -1);
  element_type("kac_noise", "dtype", dtype);
  std::vector<int64_t> shape = {t.size(0)};
  int64_t elements = std::max<int64_t>(t.size(0), 1);
  for (int64_t extent : size) {
    if (extent < 0) fail("kac_noise", "size must hold numbers >= 0, got ", extent);
    // Strides are products too, whatever is empty.
    if (__builtin_mul_overflow(elements, std::max<int64_t>(extent, 1), &elements) || elements > INT64_MAX / 8)
      fail("kac_noise", "size must make fewer than 2^60 elements, got ", extent, " in it");
    shape.push_back(extent);
  }
  Tensor out = new_tensor(t, shape, dtype);
  kac_noise_out<Device>(t, out, process, a, c, seed, seed_tensor, offset);
  return out;
}

template <class Device>
void kac_velocity_out(const Tensor& k, const Tensor& t, Tensor v, Text process, double a, double c) {
  constexpr const char* op = "kac_velocity";
  const Rows rows = rows_of(op, "k", k);
  check_rows(op, "t", t, rows.count);
  check_same_device(op, "t", t, k);
  const Kac kac = kac_of(op, process, a, c);
  check_like(op, "out", v, k);
  check_out(op, v);
  check_groups(op, "k", kac.process, k);
  const Dtype dtype = element_type(op, "k", k.scalar_type());
  if (empty(rows)) return;
  const Tensor displacements = packed(k), times = packed(t);
  check_apart(op, "out", v, "t", times);
  check_apart(op, "out", v, "k", displacements, true);
  KacVelocityArgs args{
      .k = displacements.const_data_ptr(),
      .v = v.mutable_data_ptr(),
      .t = row_data(times),
      .rows = rows,
      .dtype = dtype,
      .kac = kac,
  };
  Device(op, v).template run<&CpuKernels::kac_velocity, kac_velocity_cuda>(
      args, kChunk, "t must be finite and >= 0, with a*t <= 1e9, and |k| <= c*t (no particle gets further)");
}

template <class Device>
Tensor kac_velocity(Tensor k, Tensor t, Text process, double a, double c) {
  Tensor v = new_like("kac_velocity", "k", k);
  kac_velocity_out<Device>(k, t, v, process, a, c);
  return v;
}

template <class Device>
Tensor guided_velocity(Tensor u_cond, Tensor u_uncond, double w, OptionalTensor w_rows, std::optional<double> max_speed,
                       Text process) {
  constexpr const char* op = "guided_velocity";
  const Rows rows = rows_of(op, "u_cond", u_cond);
  check_like(op, "u_uncond", u_uncond, u_cond);
  const SpeedLimit limit = speed_limit(op, "u_cond", process, max_speed, u_cond);
  const Dtype dtype = element_type(op, "u_cond", u_cond.scalar_type());
  row_scalars(op, "w", w, w_rows, u_cond);  // before it is copied
  Tensor out = new_tensor(u_cond, u_cond.sizes());
  if (empty(rows)) return out;
  const Tensor cond = packed(u_cond), uncond = packed(u_uncond);
  const OptionalTensor weights = packed(w_rows);
  GuidedVelocityArgs args{
      .u_cond = cond.const_data_ptr(),
      .u_uncond = uncond.const_data_ptr(),
      .u = out.mutable_data_ptr(),
      .w = row_scalars(op, "w", w, weights, u_cond),
      .rows = rows,
      .dtype = dtype,
      .limit = limit,
  };
  Device(op, out).template run<&CpuKernels::guided_velocity, guided_velocity_cuda>(args, kChunk, "w must be finite");
  return out;
}

template <class Device>
void guided_step_out(const Tensor& x, const Tensor& u_cond, const OptionalTensor& u_uncond,
                     const OptionalTensor& u_prev, Tensor x_next, Tensor u, double w, double h, double h_prev,
                     OptionalTensor w_rows, OptionalTensor h_rows, OptionalTensor h_prev_rows,
                     std::optional<double> max_speed, Text process) {
  constexpr const char* op = "guided_step";
  const Rows rows = rows_of(op, "x", x);
  check_like(op, "u_cond", u_cond, x);
  if (u_uncond) check_like(op, "u_uncond", *u_uncond, x);
  if (u_prev) check_like(op, "u_prev", *u_prev, x);
  check_like(op, "out[0]", x_next, x);
  check_like(op, "out[1]", u, x);
  check_out(op, x_next);
  check_out(op, u);
  if (u_prev && !h_prev_rows && !(h_prev != 0)) fail(op, "h_prev must be the length of the step before, got ", h_prev);
  const SpeedLimit limit = speed_limit(op, "x", process, max_speed, x);
  const Dtype dtype = element_type(op, "x", x.scalar_type());
  row_scalars(op, "w", w, w_rows, x);  // before they are copied
  row_scalars(op, "h", h, h_rows, x);
  row_scalars(op, "h_prev", h_prev, h_prev_rows, x);
  if (empty(rows)) return;
  const Tensor start = packed(x), cond = packed(u_cond);
  const OptionalTensor uncond = packed(u_uncond), prev = packed(u_prev);
  const OptionalTensor ws = packed(w_rows), hs = packed(h_rows), h_prevs = packed(h_prev_rows);
  check_apart(op, "out[0]", x_next, "out[1]", u);
  for (const auto& [name, out] : {std::pair("out[0]", x_next), std::pair("out[1]", u)}) {
    check_apart(op, name, out, "x", start, true);
    check_apart(op, name, out, "u_cond", cond, true);
    check_apart(op, name, out, "u_uncond", uncond, true);
    check_apart(op, name, out, "u_prev", prev, true);
    check_apart(op, name, out, "w", ws);
    check_apart(op, name, out, "h", hs);
    check_apart(op, name, out, "h_prev", h_prevs);
  }
  GuidedStepArgs args{
      .x = start.const_data_ptr(),
      .u_cond = cond.const_data_ptr(),
      .u_uncond = uncond ? uncond->const_data_ptr() : nullptr,
      .u_prev = prev ? prev->const_data_ptr() : nullptr,
      .x_next = x_next.mutable_data_ptr(),
      .u = u.mutable_data_ptr(),
      .w = row_scalars(op, "w", w, ws, x),
      .h = row_scalars(op, "h", h, hs, x),
      .h_prev = row_scalars(op, "h_prev", h_prev, h_prevs, x),
      .rows = rows,
      .dtype = dtype,
      .limit = limit,
  };
  Device(op, x_next)
      .template run<&CpuKernels::guided_step, guided_step_cuda>(
          args, kChunk, "h_prev must not be 0, and w, h, h_prev and h (1 + h / (2 h_prev)) must be finite");
}

template <class Device>
std::tuple<Tensor, Tensor> guided_step(Tensor x, Tensor u_cond, OptionalTensor u_uncond, OptionalTensor u_prev,
                                       double w, double h, double h_prev, OptionalTensor w_rows, OptionalTensor h_rows,
                                       OptionalTensor h_prev_rows, std::optional<double> max_speed, Text process) {
  Tensor x_next = new_like("guided_step", "x", x), u = new_like("guided_step", "x", x);
  guided_step_out<Device>(x, u_cond, u_uncond, u_prev, x_next, u, w, h, h_prev, w_rows, h_rows, h_prev_rows, max_speed,
                          process);
  return {x_next, u};
}

// Returns the loss and fills grad_u with d loss / d u, both float32; x's gradient is -1/delta of it.
template <class Device>
Tensor endpoint_loss_out(const Tensor& x, const Tensor& u, const Tensor& x_end, const Tensor& delta,
                         const OptionalTensor& weight, Tensor grad_u) {
  constexpr const char* op = "endpoint_loss";
  const Rows rows = rows_of(op, "x", x);
  check_like(op, "u", u, x);
  check_like(op, "x_end", x_end, x);
  check_rows(op, "delta", delta, rows.count);
  check_same_device(op, "delta", delta, x);
  if (empty(rows)) fail(op, "x must not be empty (the mean over no elements), got ", described(x));
  if (grad_u.scalar_type() != ScalarType::Float || !same_shape(grad_u, x))
    fail(op, "out must be float32 of the shape of x, got ", described(grad_u), " for x ", described(x));
  check_same_device(op, "out", grad_u, x);
  check_out(op, grad_u);
  const Dtype dtype = element_type(op, "x", x.scalar_type());
  row_scalars(op, "weight", 1, weight, x);  // before it is copied
  const Tensor from = packed(x), velocity = packed(u), to = packed(x_end), deltas = packed(delta);
  const OptionalTensor weights = packed(weight);
  check_apart(op, "out", grad_u, "x", from, true);
  check_apart(op, "out", grad_u, "u", velocity, true);
  check_apart(op, "out", grad_u, "x_end", to, true);
  check_apart(op, "out", grad_u, "delta", deltas);
  check_apart(op, "out", grad_u, "weight", weights);
  Tensor loss = new_tensor(x, {}, ScalarType::Float);
  const int64_t chunks = units_in(rows, kLossChunk);
  Tensor partial_sums = new_tensor(x, {chunks}, ScalarType::Double);
  EndpointLossArgs args{
      .x = from.const_data_ptr(),
      .u = velocity.const_data_ptr(),
      .x_end = to.const_data_ptr(),
      .grad_u = static_cast<float*>(grad_u.mutable_data_ptr()),
      .delta = row_data(deltas),
      .weight = row_scalars(op, "weight", 1, weights, x),
      .rows = rows,
      .dtype = dtype,
      .partial_sums = static_cast<double*>(partial_sums.mutable_data_ptr()),
      .loss = static_cast<float*>(loss.mutable_data_ptr()),
  };
  Device(op, x).template run<&CpuKernels::endpoint_loss, endpoint_loss_cuda>(
      args, kLossChunk, "delta must not be 0, and delta, weight and weight / delta^2 must be finite");
  if (!x.is_cuda()) {  // the CUDA kernel adds its partial sums itself
    double sum = 0;
    for (int64_t i = 0; i < chunks; ++i) sum += args.partial_sums[i];
    *args.loss = float(sum);
  }
  return loss;
}

template <class Device>
std::tuple<Tensor, Tensor> endpoint_loss(Tensor x, Tensor u, Tensor x_end, Tensor delta, OptionalTensor weight) {
  Tensor grad_u = new_like("endpoint_loss", "x", x, ScalarType::Float);
  return {endpoint_loss_out<Device>(x, u, x_end, delta, weight, grad_u), grad_u};
}

}  // namespace distillkac
