// From tensors to the structs of kernels.h: the layers of networks, on the CPU alone, called by distillkac/flow only.
#pragma once
#include <algorithm>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "devices.h"

namespace distillkac {

// The rows of x, (B, ..., C).
inline Rows images_of(const char* op, const Tensor& x) {
  const Rows rows = rows_of(op, "x", x);
  if (x.dim() < 2) fail(op, "x must be (B, ..., C), got ", described(x));
  return rows;
}

inline void check_channels(const char* op, const char* name, const Tensor& tensor, int64_t channels) {
  if (tensor.scalar_type() != ScalarType::Float || tensor.dim() != 1 || tensor.size(0) != channels)
    fail(op, name, " must be float32 (", channels, ",), got ", described(tensor));
}

inline void check_moments(const char* op, const char* name, const Tensor& tensor, const Tensor& x, int64_t groups) {
  if (tensor.scalar_type() != ScalarType::Float || tensor.dim() != 2 || tensor.size(0) != x.size(0) ||
      tensor.size(1) != groups || !tensor.is_contiguous())
    fail(op, name, " must be contiguous float32 (B, groups), groups a divisor of the channels, got ", described(tensor),
         " for x ", described(x));
}

// x: (B, ..., C). Returns y like x, and mean and inverse deviation, both (B, groups).
inline std::tuple<Tensor, Tensor, Tensor> group_norm(Tensor x, Tensor weight, Tensor bias, int64_t groups, double eps,
                                                     bool silu) {
  constexpr const char* op = "group_norm";
  const Rows rows = images_of(op, x);
  const int64_t channels = x.size(x.dim() - 1);
  if (groups < 1 || channels % groups) fail(op, "groups must divide the channels, ", channels, ", got ", groups);
  if (!(eps >= 0)) fail(op, "eps must be >= 0, got ", eps);
  check_channels(op, "weight", weight, channels);
  check_channels(op, "bias", bias, channels);
  const Dtype dtype = element_type(op, "x", x.scalar_type());
  Tensor y = new_tensor(x, x.sizes()), mean = new_tensor(x, {rows.count, groups}, ScalarType::Float);
  Tensor inverse = new_tensor(x, {rows.count, groups}, ScalarType::Float);
  if (empty(rows)) {  // of nothing: no deviation
    std::fill_n(static_cast<float*>(mean.mutable_data_ptr()), mean.numel(), 0.f);
    std::fill_n(static_cast<float*>(inverse.mutable_data_ptr()), inverse.numel(), 0.f);
    return {y, mean, inverse};
  }
  const Tensor images = packed(x), factors = packed(weight), offsets = packed(bias);
  GroupNormArgs args{
      .x = images.const_data_ptr(),
      .y = y.mutable_data_ptr(),
      .weight = static_cast<const float*>(factors.const_data_ptr()),
      .bias = static_cast<const float*>(offsets.const_data_ptr()),
      .mean = static_cast<float*>(mean.mutable_data_ptr()),
      .inverse_deviation = static_cast<float*>(inverse.mutable_data_ptr()),
      .rows = rows,
      .channels = channels,
      .groups = groups,
      .eps = eps,
      .silu = silu,
      .dtype = dtype,
  };
  Cpu(op, x).run<&CpuKernels::group_norm, nullptr>(args, rows.width, "");
  return {y, mean, inverse};
}

// Gradients of x, weight and bias; what group_norm was given and gave.
inline std::tuple<Tensor, Tensor, Tensor> group_norm_grad(Tensor grad_y, Tensor x, Tensor weight, Tensor bias,
                                                          Tensor mean, Tensor inverse_deviation, bool silu) {
  constexpr const char* op = "group_norm_grad";
  const Rows rows = images_of(op, x);
  check_like(op, "grad_y", grad_y, x);
  const int64_t channels = x.size(x.dim() - 1), given = mean.dim() == 2 ? mean.size(1) : 0;
  const int64_t groups = given > 0 && channels % given == 0 ? given : 1;  // others fail below
  check_channels(op, "weight", weight, channels);
  check_channels(op, "bias", bias, channels);
  check_moments(op, "mean", mean, x, groups);
  check_moments(op, "inverse_deviation", inverse_deviation, x, groups);
  const Dtype dtype = element_type(op, "x", x.scalar_type());
  Tensor grad_x = new_tensor(x, x.sizes()), grad_weight = new_tensor(weight, {channels});
  Tensor grad_bias = new_tensor(weight, {channels});
  const Tensor sums = new_tensor(x, {rows.count, 2, channels}, ScalarType::Float);
  auto* const parts = static_cast<float*>(sums.mutable_data_ptr());
  if (!empty(rows)) {
    const Tensor images = packed(x), grads = packed(grad_y), factors = packed(weight), offsets = packed(bias);
    GroupNormGradArgs args{
        .x = images.const_data_ptr(),
        .grad_y = grads.const_data_ptr(),
        .grad_x = grad_x.mutable_data_ptr(),
        .weight = static_cast<const float*>(factors.const_data_ptr()),
        .bias = static_cast<const float*>(offsets.const_data_ptr()),
        .mean = static_cast<const float*>(mean.const_data_ptr()),
        .inverse_deviation = static_cast<const float*>(inverse_deviation.const_data_ptr()),
        .sums = parts,
        .rows = rows,
        .channels = channels,
        .groups = groups,
        .silu = silu,
        .dtype = dtype,
    };
    Cpu(op, x).run<&CpuKernels::group_norm_grad, nullptr>(args, rows.width, "");
  }
  // Row by row, in float64: the same sum for any number of threads.
  std::vector<double> total(size_t(2 * channels));
  for (int64_t row = 0; row < (empty(rows) ? 0 : rows.count); ++row)
    for (int64_t c = 0; c < 2 * channels; ++c) total[size_t(c)] += parts[row * 2 * channels + c];
  for (int64_t c = 0; c < channels; ++c) {
    static_cast<float*>(grad_bias.mutable_data_ptr())[c] = float(total[size_t(c)]);
    static_cast<float*>(grad_weight.mutable_data_ptr())[c] = float(total[size_t(channels + c)]);
  }
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace distillkac
