// From tensors to KacPairArgs, with and without the state at a second time: as adapters.h.
#pragma once
#include <array>
#include <optional>
#include <tuple>
#include <utility>

#include "arguments.h"
#include "devices.h"
#include "text.h"

namespace distillkac {

// Everything but tensors of elements and times.
struct PairOptions {
  const Text &process, &f, &g;
  double a, c, kappa;
  int64_t seed;
  const OptionalTensor& seed_tensor;
  int64_t offset;
};

// results: x_t, u, and x_to where there is t_to. fresh: they were made here.
template <class Device, size_t n>
void fill_pair(const Tensor& x0, const Tensor& t, const OptionalTensor& t_to, const std::array<Tensor, n>& results,
               bool fresh, const PairOptions& options) {
  constexpr const char* op = "kac_pair";
  constexpr const char* names[] = {"out[0]", "out[1]", "out[2]"};
  std::array<std::pair<const char*, const Tensor*>, n> named;
  for (size_t i = 0; i < n; ++i) named[i] = {names[i], &results[i]};
  Outputs<n> outputs(op, named, fresh);
  const Rows rows = rows_of(op, "x0", x0);
  check_rows(op, "t", t, rows.count);
  check_same_device(op, "t", t, x0);
  if (t_to) {
    check_rows(op, "t_to", *t_to, rows.count);
    check_same_device(op, "t_to", *t_to, x0);
  }
  const Kac kac = kac_of(op, options.process, options.a, options.c);
  outputs.check_like(x0);
  outputs.check_contiguous();
  check_groups(op, "x0", kac.process, x0);
  const double kappa = options.kappa;
  if (!(kappa > 0 && kappa <= 1e6)) fail(op, "kappa must lie in (0, 1e6], got ", kappa);
  const Dtype dtype = element_type(op, "x0", x0.scalar_type());
  const FSchedule f = f_named(op, options.f);
  const GSchedule g = g_named(op, options.g);
  const Seed source = seed_of(op, options.seed, options.seed_tensor, options.offset, x0);
  if (empty(rows)) return;
  const Tensor data = packed(x0), times = packed(t);
  const OptionalTensor times_to = packed(t_to);
  outputs.check_apart();
  outputs.check_apart("t", times);
  outputs.check_apart("t_to", times_to);
  outputs.check_apart("seed", options.seed_tensor);
  outputs.check_apart("x0", data, true);
  KacPairArgs args{
      .x0 = data.const_data_ptr(),
      .x_t = results[0].mutable_data_ptr(),
      .u = results[1].mutable_data_ptr(),
      .t = row_data(times),
      .rows = rows,
      .dtype = dtype,
      .kac = kac,
      .f = f,
      .g = g,
      .kappa = kappa,
      .seed = source,
      .x_to = n == 3 ? results[n - 1].mutable_data_ptr() : nullptr,
      .t_to = times_to ? row_data(*times_to) : RowScalar{},
  };
  const char* const range = t_to ? "t and t_to must be finite and >= 0, with a*g of them <= 1e9"
                                 : "t must be finite and >= 0, with a*g(t) <= 1e9";
  const Device device(op, x0);
  if (!fresh) device.check_values(args, kChunk, range);
  device.template run<&CpuKernels::kac_pair, kac_pair_cuda>(args, kChunk, range);
}

template <class Device>
void kac_pair_out(const Tensor& x0, const Tensor& t, Tensor x_t, Tensor u, Text process, double a, double c, Text f,
                  Text g, double kappa, int64_t seed, OptionalTensor seed_tensor, int64_t offset) {
  fill_pair<Device, 2>(x0, t, {}, {x_t, u}, false, {process, f, g, a, c, kappa, seed, seed_tensor, offset});
}

template <class Device>
std::tuple<Tensor, Tensor> kac_pair(Tensor x0, Tensor t, Text process, double a, double c, Text f, Text g, double kappa,
                                    int64_t seed, OptionalTensor seed_tensor, int64_t offset) {
  const std::array<Tensor, 2> made = {new_like("kac_pair", "x0", x0), new_like("kac_pair", "x0", x0)};
  fill_pair<Device>(x0, t, {}, made, true, {process, f, g, a, c, kappa, seed, seed_tensor, offset});
  return {made[0], made[1]};
}

template <class Device>
void kac_pair_to_out(const Tensor& x0, const Tensor& t, const Tensor& t_to, Tensor x_t, Tensor u, Tensor x_to,
                     Text process, double a, double c, Text f, Text g, double kappa, int64_t seed,
                     OptionalTensor seed_tensor, int64_t offset) {
  fill_pair<Device, 3>(x0, t, t_to, {x_t, u, x_to}, false, {process, f, g, a, c, kappa, seed, seed_tensor, offset});
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> kac_pair_to(Tensor x0, Tensor t, Tensor t_to, Text process, double a, double c,
                                               Text f, Text g, double kappa, int64_t seed, OptionalTensor seed_tensor,
                                               int64_t offset) {
  const std::array<Tensor, 3> made = {new_like("kac_pair", "x0", x0), new_like("kac_pair", "x0", x0),
                                      new_like("kac_pair", "x0", x0)};
  fill_pair<Device>(x0, t, t_to, made, true, {process, f, g, a, c, kappa, seed, seed_tensor, offset});
  return {made[0], made[1], made[2]};
}

}  // namespace distillkac
