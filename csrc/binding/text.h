// A string argument of an op. Not std::string: the headers of torch 2.10 to 2.13 leak one for every string at every
// call (pytorch issue 191340).
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/stableivalue_conversions.h>

#include <string>

namespace distillkac {

struct Text : std::string {
  using std::string::string;
};

}  // namespace distillkac

HIDDEN_NAMESPACE_BEGIN(torch, stable, detail)

// As torch's own for std::string, which takes over the handle.
template <>
struct ToImpl<distillkac::Text> {
  static distillkac::Text call(StableIValue value, uint64_t, bool) {
    const StringHandle handle = to<StringHandle>(value);
    size_t length = 0;
    const char* data = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
    distillkac::Text text(data, length);
    TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return text;
  }
};

HIDDEN_NAMESPACE_END(torch, stable, detail)
