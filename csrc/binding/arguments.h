// What a tensor, a name or a row scalar means as an argument of an op: read, checked, put into the structs of
// kernels.h.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "checks.h"
#include "../kernels.h"

namespace distillkac {

using OptionalTensor = std::optional<Tensor>;

inline Dtype element_type(const char* op, const char* name, ScalarType type) {
  if (type == ScalarType::Float) return Dtype::kFloat32;
  if (type == ScalarType::BFloat16) return Dtype::kBFloat16;
  if (type == ScalarType::Half) return Dtype::kFloat16;
  fail(op, name, " must be float32, bfloat16 or float16, got ", dtype_name(type));
}

inline Process process_named(const char* op, const std::string& name) {
  if (name == "telegraph") return Process::kTelegraph;
  if (name == "planar") return Process::kPlanar;
  if (name == "quad") return Process::kQuad;
  fail(op, "process must be 'telegraph', 'planar' or 'quad', got '", name, "'");
}

inline Kac kac_of(const char* op, const std::string& process, double a, double c) {
  check_positive(op, "a", a, 0, 1e30);
  check_positive(op, "c", c, 1e-30, 1e20);  // c and c lambda must fit in float32
  return {process_named(op, process), a, c};
}

inline FSchedule f_named(const char* op, const std::string& name) {
  if (name == "linear") return FSchedule::kLinear;
  if (name == "cosine") return FSchedule::kCosine;
  if (name == "exp") return FSchedule::kExp;
  fail(op, "f must be 'linear', 'cosine' or 'exp', got '", name, "'");
}

inline GSchedule g_named(const char* op, const std::string& name) {
  if (name == "linear") return GSchedule::kLinear;
  if (name == "quadratic") return GSchedule::kQuadratic;
  fail(op, "g must be 'linear' or 'quadratic', got '", name, "'");
}

// A contiguous tensor that lives as long as the launch.
inline Tensor packed(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}
inline OptionalTensor packed(const OptionalTensor& tensor) {
  return tensor ? OptionalTensor(packed(*tensor)) : OptionalTensor();
}

inline Rows rows_of(const char* op, const char* name, const Tensor& tensor) {
  if (tensor.dim() < 1) fail(op, name, " must have a batch dimension, (B, ...), got ", described(tensor));
  Rows rows{tensor.size(0), 1};
  bool fits = true;
  for (int64_t i = 1; i < tensor.dim(); ++i) fits &= !__builtin_mul_overflow(rows.width, tensor.size(i), &rows.width);
  int64_t elements;
  if (!fits || __builtin_mul_overflow(rows.count, rows.width, &elements))
    fail(op, name, " must have fewer than 2^63 elements, got ", described(tensor));
  check_copyable(op, name, tensor);
  return rows;
}
inline bool empty(const Rows& rows) { return rows.count == 0 || rows.width == 0; }

// A new contiguous tensor where `like` is. Not torch::stable::new_empty, which looks its operator up by name.
inline Tensor new_tensor(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef sizes,
                         std::optional<ScalarType> dtype = {}) {
  constexpr size_t kUsual = 8;  // dimensions, for which no memory is asked
  int64_t usual[kUsual];
  std::vector<int64_t> many(sizes.size() > kUsual ? sizes.size() : 0);
  int64_t* const strides = many.empty() ? usual : many.data();
  uint64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = int64_t(stride);
    stride *= uint64_t(sizes[i] > 1 ? sizes[i] : 1);
  }
  const ScalarType type = dtype ? *dtype : like.scalar_type();
  int32_t device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides,
                                                  torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)),
                                                  device_type, like.get_device_index(), &handle));
  return Tensor(handle);
}

// A new contiguous tensor of x's shape; x is checked first, so that nothing large is allocated for a wrong argument.
inline Tensor new_like(const char* op, const char* name, const Tensor& x, std::optional<ScalarType> dtype = {}) {
  rows_of(op, name, x);
  return new_tensor(x, x.sizes(), dtype);
}

inline void check_groups(const char* op, const char* name, Process process, const Tensor& tensor) {
  const int64_t last = tensor.dim() < 2 ? 1 : tensor.size(tensor.dim() - 1);
  switch (process) {
    case Process::kTelegraph:
      return;
    case Process::kPlanar:
      if (last % 2 != 0)
        fail(op, name, " must have an even last dimension, because planar pairs neighbouring elements; got ", last);
      return;
    case Process::kQuad:
      if (last % 4 != 0)
        fail(op, name,
             " must have a last dimension divisible by 4, because quad groups four neighbouring elements; got ", last);
  }
}

// max_speed: None is no limit. velocities, named `name`: what is limited.
inline SpeedLimit speed_limit(const char* op, const char* name, const std::string& process,
                              std::optional<double> max_speed, const Tensor& velocities) {
  const Process kind = process_named(op, process);
  if (!max_speed) return {kind, INFINITY};
  check_groups(op, name, kind, velocities);
  if (!(*max_speed >= 0)) fail(op, "max_speed must be >= 0 or None, got ", *max_speed);
  return {kind, *max_speed};
}

inline RowScalar row_data(const Tensor& tensor) {
  return {tensor.const_data_ptr(), tensor.scalar_type() == ScalarType::Double, 0};
}

inline RowScalar row_scalars(const char* op, const char* name, double value, const OptionalTensor& per_row,
                             const Tensor& like) {
  if (!per_row) {
    if (!std::isfinite(float(value))) fail(op, name, " must be a finite number, got ", value);
    return {nullptr, false, value};
  }
  check_rows(op, name, *per_row, like.size(0));
  check_same_device(op, name, *per_row, like);
  return row_data(*per_row);
}

inline Seed seed_of(const char* op, int64_t seed, const OptionalTensor& seed_tensor, int64_t offset,
                    const Tensor& like) {
  if (offset < 0) fail(op, "offset must be >= 0, got ", offset);
  if (offset > INT64_MAX - like.size(0)) fail(op, "offset plus the number of rows must stay below 2^63, got ", offset);
  if (!seed_tensor) return {nullptr, seed, offset};
  if (seed_tensor->scalar_type() != ScalarType::Long || seed_tensor->numel() != 1)
    fail(op, "seed must be an int or an int64 tensor of one element, got ", described(*seed_tensor));
  check_same_device(op, "seed", *seed_tensor, like);
  return {static_cast<const int64_t*>(seed_tensor->const_data_ptr()), seed, offset};
}

}  // namespace distillkac
