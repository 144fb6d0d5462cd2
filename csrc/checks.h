// Errors that name op, argument, wanted and got. std::invalid_argument reaches Python as ValueError.
#pragma once
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <sstream>
#include <stdexcept>
#include <string>

namespace distillkac {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Parts>
[[noreturn]] void fail(const char* op, const Parts&... parts) {
  std::ostringstream message;
  message << op << ": ";
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

inline const char* dtype_name(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Half:
      return "float16";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Bool:
      return "bool";
    default:
      return "another dtype";
  }
}

// "float32 (4, 3, 8, 8)"
inline std::string described(const Tensor& tensor) {
  std::ostringstream text;
  text << dtype_name(tensor.scalar_type()) << " (";
  for (int64_t i = 0; i < tensor.dim(); ++i) text << (i ? ", " : "") << tensor.size(i);
  if (tensor.dim() == 1) text << ",";
  text << ")";
  return text.str();
}

inline void check_positive(const char* op, const char* name, double value) {
  if (!(value > 0 && value <= 1e30)) fail(op, name, " must be a positive number, got ", value);
}

inline void check_same_device(const char* op, const char* name, const Tensor& tensor, const Tensor& like) {
  if (tensor.is_cuda() != like.is_cuda() || tensor.get_device_index() != like.get_device_index())
    fail(op, name, " must be on the device of the other tensors");
}

// One row scalar for each of the B rows.
inline void check_rows(const char* op, const char* name, const Tensor& tensor, int64_t rows) {
  const bool real = tensor.scalar_type() == ScalarType::Float || tensor.scalar_type() == ScalarType::Double;
  if (!real || tensor.dim() != 1 || (rows >= 0 && tensor.size(0) != rows)) {
    std::ostringstream wanted;
    if (rows >= 0)
      wanted << rows << ",";
    else
      wanted << "B,";
    fail(op, name, " must be float32 or float64 (", wanted.str(), "), got ", described(tensor));
  }
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (int64_t i = 0; i < a.dim(); ++i)
    if (a.size(i) != b.size(i)) return false;
  return true;
}

inline void check_like(const char* op, const char* name, const Tensor& tensor, const Tensor& like) {
  if (!same_shape(tensor, like) || tensor.scalar_type() != like.scalar_type())
    fail(op, name, " must be ", described(like), " like the other tensors, got ", described(tensor));
  check_same_device(op, name, tensor, like);
}

inline void check_out(const char* op, const Tensor& out) {
  if (!out.is_contiguous()) fail(op, "out must be contiguous, got a strided ", described(out));
}

}  // namespace distillkac
