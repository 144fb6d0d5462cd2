// Errors that name op, argument, wanted and got. std::invalid_argument reaches Python as ValueError.
#pragma once
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

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
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
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

inline void check_positive(const char* op, const char* name, double value, double least, double most) {
  if (!(value > 0)) fail(op, name, " must be a positive number, got ", value);
  if (!(value >= least)) fail(op, name, " must be at least ", least, ", got ", value);
  if (!(value <= most)) fail(op, name, " must be at most ", most, ", got ", value);
}

inline void check_same_device(const char* op, const char* name, const Tensor& tensor, const Tensor& like) {
  if (tensor.is_cuda() != like.is_cuda() || tensor.get_device_index() != like.get_device_index())
    fail(op, name, " must be on the device of the other tensors");
}

// Any strides are allowed and copied where needed, but a view such as torch.zeros(1).expand(2**33) costs nothing to
// make and its copy would take all memory.
inline void check_copyable(const char* op, const char* name, const Tensor& tensor) {
  if (tensor.numel() <= int64_t(1) << 31 || tensor.is_contiguous()) return;
  double span = 1;
  for (int64_t i = 0; i < tensor.dim(); ++i) span += double(tensor.size(i) - 1) * double(tensor.stride(i));
  if (span < double(tensor.numel()))
    fail(op, name, " must not be a view of more than 2^31 elements that share memory (expand), got ", described(tensor),
         "; pass ", name, ".contiguous() if its copy is wanted");
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
  check_copyable(op, name, tensor);
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
  check_copyable(op, name, tensor);
}

struct Bytes {
  uintptr_t begin, end;
};
inline Bytes bytes_of(const Tensor& contiguous) {
  const auto begin = reinterpret_cast<uintptr_t>(contiguous.const_data_ptr());
  return {begin, begin + uintptr_t(contiguous.numel()) * contiguous.element_size()};
}

// The tensors that an op fills, by the names that errors call them. fresh: the op made them itself, so nothing can be
// wrong with them; a small op would take a third longer.
template <size_t n>
class Outputs {
 public:
  Outputs(const char* op, std::array<std::pair<const char*, const Tensor*>, n> outs, bool fresh)
      : op_(op), outs_(outs), fresh_(fresh) {}

  void check_like(const Tensor& like) const {
    if (fresh_) return;
    for (const auto& [name, out] : outs_) distillkac::check_like(op_, name, *out, like);
  }

  // After this, check_apart.
  void check_contiguous() {
    if (fresh_) return;
    for (size_t i = 0; i < n; ++i) {
      if (!outs_[i].second->is_contiguous())
        fail(op_, "out must be contiguous, got a strided ", described(*outs_[i].second));
      bytes_[i] = bytes_of(*outs_[i].second);
    }
  }

  // They share no memory with each other.
  void check_apart() const {
    if (fresh_) return;
    for (size_t i = 0; i < n; ++i)
      for (size_t k = i + 1; k < n; ++k) check_apart(i, outs_[k].first, bytes_[k], false);
  }

  // What a kernel reads must not be overwritten before: `read` (as packed, so a strided view was copied already) must
  // not share memory with any of them. in_place: it may be the very same elements, which are read before they are
  // written.
  void check_apart(const char* name, const Tensor& read, bool in_place = false) const {
    if (fresh_) return;
    const Bytes from = bytes_of(read);
    for (size_t i = 0; i < n; ++i) check_apart(i, name, from, in_place);
  }
  void check_apart(const char* name, const std::optional<Tensor>& read, bool in_place = false) const {
    if (read) check_apart(name, *read, in_place);
  }

 private:
  const char* op_;
  std::array<std::pair<const char*, const Tensor*>, n> outs_;
  std::array<Bytes, n> bytes_{};
  bool fresh_;

  void check_apart(size_t i, const char* name, Bytes from, bool in_place) const {
    const Bytes to = bytes_[i];
    if (from.begin == from.end || to.begin >= from.end || from.begin >= to.end) return;
    if (in_place && to.begin == from.begin && to.end == from.end) return;
    fail(op_, outs_[i].first, " must not overlap ", name, " in memory", in_place ? ", unless it is all of it" : "");
  }
};

}  // namespace distillkac
