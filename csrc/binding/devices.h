// Where an op runs. Cpu: torch's own parallel_for (so torch.set_num_threads holds). Cuda: the tensors' device and
// torch's current stream. The adapters have returned where there is no element.
#pragma once
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <type_traits>

#include "checks.h"
#include "../ops/row_values.h"

#ifdef DISTILLKAC_WITH_CUDA
#include <dlfcn.h>
#endif

namespace distillkac {

struct Cpu {
  const char* op;
  Cpu(const char* name, const Tensor&) : op(name) {}

  // Before a caller's tensors are filled: the values of rows, and of kac_velocity the displacements too.
  template <class Args>
  void check_values(const Args& args, int64_t chunk, const char* range_error) const {
    if constexpr (std::is_same_v<Args, KacVelocityArgs>) {
      run<&CpuKernels::kac_velocity_covers, nullptr>(args, chunk, range_error);
    } else {
      for (int64_t row = 0; row < args.rows.count; ++row)
        if (!DISTILLKAC_ARCH::covers_row(args, row)) fail(op, range_error);
    }
  }

  // The kernels are template arguments, so that a build without CUDA names but never refers to the CUDA ones.
  template <auto cpu_kernel, auto cuda_kernel, class Args>
  void run(const Args& args, int64_t chunk, const char* range_error) const {
    const int64_t units = units_in(args.rows, chunk);
    // A thread is worth starting for about 8192 elements.
    const int64_t unit_size = args.rows.width < chunk ? args.rows.width : chunk;
    const int64_t grain = 1 + 8192 / unit_size;
    const auto loop = cpu_kernels().*cpu_kernel;
    std::atomic<bool> valid{true};
    const auto part = [&](int64_t begin, int64_t end) {
      if (!loop(args, begin, end)) valid = false;
    };
    if (units <= grain)
      part(0, units);
    else
      torch::stable::parallel_for(0, units, grain, part);
    if (!valid) fail(op, range_error);
  }
};

#ifdef DISTILLKAC_WITH_CUDA
struct Cuda {
  const char* op;
  int32_t device;
  torch::stable::accelerator::DeviceGuard guard;
  Cuda(const char* name, const Tensor& tensor) : op(name), device(tensor.get_device_index()), guard(device) {}

  // It would have to wait for the device.
  template <class Args>
  void check_values(const Args&, int64_t, const char*) const {}

  template <auto cpu_kernel, auto cuda_kernel, class Args>
  void run(const Args& args, int64_t, const char*) const {
    const int error = cuda_kernel(args, current_stream());
    if (error) throw std::runtime_error(std::string(op) + ": CUDA kernel failed: " + cuda_error_string(error));
  }

 private:
  // libtorch_cuda has this function and a CPU-only torch does not: looked up at run time, so that one binary loads in
  // both.
  void* current_stream() const {
    using Get = AOTITorchError (*)(int32_t, void**);
    static const Get get = [] {
      void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
      return library ? reinterpret_cast<Get>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
    }();
    void* stream = nullptr;
    if (!get || get(device, &stream) != 0)
      throw std::runtime_error(std::string(op) + ": torch has no CUDA stream here");
    return stream;
  }
};
#endif

}  // namespace distillkac
