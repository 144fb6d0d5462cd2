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
void fill_noise(const Tensor& t, const Tensor& out, bool fresh, const Text& process, double a, double c, int64_t seed,
                const OptionalTensor& seed_tensor, int64_t offset) {
  constexpr const char* op = "kac_noise";
  Outputs<1> outputs(op, {{{"out", &out}}}, fresh);
  const Rows rows = rows_of(op, "out", out);
  check_rows(op, "t", t, rows.count);
  const Kac kac = kac_of(op, process, a, c);
  check_same_device(op, "out", out, t);
  outputs.check_contiguous();
  check_groups(op, "size", kac.process, out);
  const Dtype dtype = element_type(op, "dtype", out.scalar_type());
  const Seed source = seed_of(op, seed, seed_tensor, offset, t);
  if (empty(rows)) return;
  const Tensor times = packed(t);
  outputs.check_apart("t", times);
  outputs.check_apart("seed", seed_tensor);
  KacNoiseArgs args{
      .out = out.mutable_data_ptr(),
      .t = row_data(times),
      .rows = rows,
      .dtype = dtype,
      .kac = kac,
      .seed = source,
  };
  constexpr const char* range = "t must be finite and >= 0, with a*t <= 1e9";
  const Device device(op, out);
  if (!fresh) device.check_values(args, kChunk, range);
  device.template run<&CpuKernels::kac_noise, kac_noise_cuda>(args, kChunk, range);
}

template <class Device>
void kac_noise_out(const Tensor& t, Tensor out, Text process, double a, double c, int64_t seed,
                   OptionalTensor seed_tensor, int64_t offset) {
  fill_noise<Device>(t, out, false, process, a, c, seed, seed_tensor, offset);
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
  fill_noise<Device>(t, out, true, process, a, c, seed, seed_tensor, offset);
  return out;
}

template <class Device>
void fill_velocity(const Tensor& k, const Tensor& t, const Tensor& v, bool fresh, const Text& process, double a,
                   double c) {
  constexpr const char* op = "kac_velocity";
  Outputs<1> outputs(op, {{{"out", &v}}}, fresh);
  const Rows rows = rows_of(op, "k", k);
  check_rows(op, "t", t, rows.count);
  check_same_device(op, "t", t, k);
  const Kac kac = kac_of(op, process, a, c);
  outputs.check_like(k);
  outputs.check_contiguous();
  check_groups(op, "k", kac.process, k);
  const Dtype dtype = element_type(op, "k", k.scalar_type());
  if (empty(rows)) return;
  const Tensor displacements = packed(k), times = packed(t);
  outputs.check_apart("t", times);
  outputs.check_apart("k", displacements, true);
  KacVelocityArgs args{
      .k = displacements.const_data_ptr(),
      .v = v.mutable_data_ptr(),
      .t = row_data(times),
      .rows = rows,
      .dtype = dtype,
      .kac = kac,
  };
  constexpr const char* range = "t must be finite and >= 0, with a*t <= 1e9, and |k| <= c*t (no particle gets further)";
  const Device device(op, v);
  if (!fresh) device.check_values(args, kChunk, range);
  device.template run<&CpuKernels::kac_velocity, kac_velocity_cuda>(args, kChunk, range);
}

template <class Device>
void kac_velocity_out(const Tensor& k, const Tensor& t, Tensor v, Text process, double a, double c) {
  fill_velocity<Device>(k, t, v, false, process, a, c);
}

template <class Device>
Tensor kac_velocity(Tensor k, Tensor t, Text process, double a, double c) {
  Tensor v = new_like("kac_velocity", "k", k);
  fill_velocity<Device>(k, t, v, true, process, a, c);
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

// Everything but tensors of elements.
struct StepOptions {
  double w, h, h_prev;
  const OptionalTensor &w_rows, &h_rows, &h_prev_rows;
  const std::optional<double>& max_speed;
  const Text& process;
};

template <class Device>
void fill_step(const Tensor& x, const Tensor& u_cond, const OptionalTensor& u_uncond, const OptionalTensor& u_prev,
               const Tensor& x_next, const Tensor& u, bool fresh, const StepOptions& options) {
  const auto& [w, h, h_prev, w_rows, h_rows, h_prev_rows, max_speed, process] = options;
  constexpr const char* op = "guided_step";
  Outputs<2> outputs(op, {{{"out[0]", &x_next}, {"out[1]", &u}}}, fresh);
  const Rows rows = rows_of(op, "x", x);
  check_like(op, "u_cond", u_cond, x);
  if (u_uncond) check_like(op, "u_uncond", *u_uncond, x);
  if (u_prev) check_like(op, "u_prev", *u_prev, x);
  outputs.check_like(x);
  outputs.check_contiguous();
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
  outputs.check_apart();
  outputs.check_apart("x", start, true);
  outputs.check_apart("u_cond", cond, true);
  outputs.check_apart("u_uncond", uncond, true);
  outputs.check_apart("u_prev", prev, true);
  outputs.check_apart("w", ws);
  outputs.check_apart("h", hs);
  outputs.check_apart("h_prev", h_prevs);
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
  constexpr const char* range = "h_prev must not be 0, and w, h, h_prev and h (1 + h / (2 h_prev)) must be finite";
  const Device device(op, x_next);
  if (!fresh) device.check_values(args, kChunk, range);
  device.template run<&CpuKernels::guided_step, guided_step_cuda>(args, kChunk, range);
}

template <class Device>
void guided_step_out(const Tensor& x, const Tensor& u_cond, const OptionalTensor& u_uncond,
                     const OptionalTensor& u_prev, Tensor x_next, Tensor u, double w, double h, double h_prev,
                     OptionalTensor w_rows, OptionalTensor h_rows, OptionalTensor h_prev_rows,
                     std::optional<double> max_speed, Text process) {
  fill_step<Device>(x, u_cond, u_uncond, u_prev, x_next, u, false,
                    {w, h, h_prev, w_rows, h_rows, h_prev_rows, max_speed, process});
}

template <class Device>
std::tuple<Tensor, Tensor> guided_step(Tensor x, Tensor u_cond, OptionalTensor u_uncond, OptionalTensor u_prev,
                                       double w, double h, double h_prev, OptionalTensor w_rows, OptionalTensor h_rows,
                                       OptionalTensor h_prev_rows, std::optional<double> max_speed, Text process) {
  Tensor x_next = new_like("guided_step", "x", x), u = new_like("guided_step", "x", x);
  fill_step<Device>(x, u_cond, u_uncond, u_prev, x_next, u, true,
                    {w, h, h_prev, w_rows, h_rows, h_prev_rows, max_speed, process});
  return {x_next, u};
}

// Returns the loss and fills grad_u with d loss / d u, both float32; x's gradient is -1/delta of it.
template <class Device>
Tensor fill_loss(const Tensor& x, const Tensor& u, const Tensor& x_end, const Tensor& delta,
                 const OptionalTensor& weight, const Tensor& grad_u, bool fresh) {
  constexpr const char* op = "endpoint_loss";
  Outputs<1> outputs(op, {{{"out", &grad_u}}}, fresh);
  const Rows rows = rows_of(op, "x", x);
  check_like(op, "u", u, x);
  check_like(op, "x_end", x_end, x);
  check_rows(op, "delta", delta, rows.count);
  check_same_device(op, "delta", delta, x);
  if (empty(rows)) fail(op, "x must not be empty (the mean over no elements), got ", described(x));
  if (grad_u.scalar_type() != ScalarType::Float || !same_shape(grad_u, x))
    fail(op, "out must be float32 of the shape of x, got ", described(grad_u), " for x ", described(x));
  check_same_device(op, "out", grad_u, x);
  outputs.check_contiguous();
  const Dtype dtype = element_type(op, "x", x.scalar_type());
  row_scalars(op, "weight", 1, weight, x);  // before it is copied
  const Tensor from = packed(x), velocity = packed(u), to = packed(x_end), deltas = packed(delta);
  const OptionalTensor weights = packed(weight);
  outputs.check_apart("x", from, true);
  outputs.check_apart("u", velocity, true);
  outputs.check_apart("x_end", to, true);
  outputs.check_apart("delta", deltas);
  outputs.check_apart("weight", weights);
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
  constexpr const char* range = "delta must not be 0, and delta, weight and weight / delta^2 must be finite";
  const Device device(op, x);
  if (!fresh) device.check_values(args, kLossChunk, range);
  device.template run<&CpuKernels::endpoint_loss, endpoint_loss_cuda>(args, kLossChunk, range);
  if (!x.is_cuda()) {  // the CUDA kernel adds its partial sums itself
    double sum = 0;
    for (int64_t i = 0; i < chunks; ++i) sum += args.partial_sums[i];
    *args.loss = float(sum);
  }
  return loss;
}

template <class Device>
Tensor endpoint_loss_out(const Tensor& x, const Tensor& u, const Tensor& x_end, const Tensor& delta,
                         const OptionalTensor& weight, Tensor grad_u) {
  return fill_loss<Device>(x, u, x_end, delta, weight, grad_u, false);
}

template <class Device>
std::tuple<Tensor, Tensor> endpoint_loss(Tensor x, Tensor u, Tensor x_end, Tensor delta, OptionalTensor weight) {
  Tensor grad_u = new_like("endpoint_loss", "x", x, ScalarType::Float);
  return {fill_loss<Device>(x, u, x_end, delta, weight, grad_u, true), grad_u};
}

}  // namespace distillkac
