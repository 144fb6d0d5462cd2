// From tensors to KacPairArgs, with and without the state at a second time: as adapters.h.
#pragma once
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

// t_to and x_to: both or neither.
template <class Device>
void fill_pair(const Tensor& x0, const Tensor& t, const OptionalTensor& t_to, Tensor x_t, Tensor u, OptionalTensor x_to,
               const PairOptions& options) {
  constexpr const char* op = "kac_pair";
  const Rows rows = rows_of(op, "x0", x0);
  check_rows(op, "t", t, rows.count);
  check_same_device(op, "t", t, x0);
  if (t_to) {
    check_rows(op, "t_to", *t_to, rows.count);
    check_same_device(op, "t_to", *t_to, x0);
  }
  const Kac kac = kac_of(op, options.process, options.a, options.c);
  check_like(op, "out[0]", x_t, x0);
  check_like(op, "out[1]", u, x0);
  check_out(op, x_t);
  check_out(op, u);
  if (x_to) {
    check_like(op, "out[2]", *x_to, x0);
    check_out(op, *x_to);
  }
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
  check_apart(op, "out[0]", x_t, "out[1]", u);
  check_apart(op, "out[0]", x_t, "out[2]", x_to);
  check_apart(op, "out[1]", u, "out[2]", x_to);
  const auto apart_from_what_is_read = [&](const char* name, const Tensor& out) {
    check_apart(op, name, out, "t", times);
    check_apart(op, name, out, "t_to", times_to);
    check_apart(op, name, out, "seed", options.seed_tensor);
    check_apart(op, name, out, "x0", data, true);
  };
  apart_from_what_is_read("out[0]", x_t);
  apart_from_what_is_read("out[1]", u);
  if (x_to) apart_from_what_is_read("out[2]", *x_to);
  KacPairArgs args{
      .x0 = data.const_data_ptr(),
      .x_t = x_t.mutable_data_ptr(),
      .u = u.mutable_data_ptr(),
      .t = row_data(times),
      .rows = rows,
      .dtype = dtype,
      .kac = kac,
      .f = f,
      .g = g,
      .kappa = kappa,
      .seed = source,
      .x_to = x_to ? x_to->mutable_data_ptr() : nullptr,
      .t_to = times_to ? row_data(*times_to) : RowScalar{},
  };
  Device(op, x_t).template run<&CpuKernels::kac_pair, kac_pair_cuda>(
      args, kChunk,
      t_to ? "t and t_to must be finite and >= 0, with a*g of them <= 1e9"
           : "t must be finite and >= 0, with a*g(t) <= 1e9");
}

template <class Device>
void kac_pair_out(const Tensor& x0, const Tensor& t, Tensor x_t, Tensor u, Text process, double a, double c, Text f,
                  Text g, double kappa, int64_t seed, OptionalTensor seed_tensor, int64_t offset) {
  fill_pair<Device>(x0, t, {}, x_t, u, {}, {process, f, g, a, c, kappa, seed, seed_tensor, offset});
}

template <class Device>
std::tuple<Tensor, Tensor> kac_pair(Tensor x0, Tensor t, Text process, double a, double c, Text f, Text g, double kappa,
                                    int64_t seed, OptionalTensor seed_tensor, int64_t offset) {
  Tensor x_t = new_like("kac_pair", "x0", x0), u = new_like("kac_pair", "x0", x0);
  fill_pair<Device>(x0, t, {}, x_t, u, {}, {process, f, g, a, c, kappa, seed, seed_tensor, offset});
  return {x_t, u};
}

template <class Device>
void kac_pair_to_out(const Tensor& x0, const Tensor& t, const Tensor& t_to, Tensor x_t, Tensor u, Tensor x_to,
                     Text process, double a, double c, Text f, Text g, double kappa, int64_t seed,
                     OptionalTensor seed_tensor, int64_t offset) {
  fill_pair<Device>(x0, t, t_to, x_t, u, x_to, {process, f, g, a, c, kappa, seed, seed_tensor, offset});
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> kac_pair_to(Tensor x0, Tensor t, Tensor t_to, Text process, double a, double c,
                                               Text f, Text g, double kappa, int64_t seed, OptionalTensor seed_tensor,
                                               int64_t offset) {
  Tensor x_t = new_like("kac_pair", "x0", x0), u = new_like("kac_pair", "x0", x0),
         x_to = new_like("kac_pair", "x0", x0);
  fill_pair<Device>(x0, t, t_to, x_t, u, x_to, {process, f, g, a, c, kappa, seed, seed_tensor, offset});
  return {x_t, u, x_to};
}

}  // namespace distillkac
