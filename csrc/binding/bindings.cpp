// Every schema and what serves it, on each device alike; nothing else. Python side: distillkac/ops/. Tensors to
// arguments: adapters.h.
#include <torch/csrc/stable/library.h>

#define DISTILLKAC_ARCH portable
#include "adapters.h"
#include "network_adapters.h"
#include "pair_adapters.h"

STABLE_TORCH_LIBRARY(distillkac, m) {
  m.def(
      "kac_noise(Tensor t, SymInt[] size, str process, float a, float c, SymInt seed, Tensor? seed_tensor, "
      "SymInt offset, ScalarType dtype) -> Tensor");
  m.def(
      "kac_noise.out(Tensor t, Tensor(a!) out, str process, float a, float c, SymInt seed, Tensor? seed_tensor, "
      "SymInt offset) -> ()");
  m.def("kac_velocity(Tensor k, Tensor t, str process, float a, float c) -> Tensor");
  m.def("kac_velocity.out(Tensor k, Tensor t, Tensor(a!) out, str process, float a, float c) -> ()");
  m.def(
      "kac_pair(Tensor x0, Tensor t, str process, float a, float c, str f, str g, float kappa, SymInt seed, "
      "Tensor? seed_tensor, SymInt offset) -> (Tensor, Tensor)");
  m.def(
      "kac_pair.out(Tensor x0, Tensor t, Tensor(a!) x_t, Tensor(b!) u, str process, float a, float c, str f, str g, "
      "float kappa, SymInt seed, Tensor? seed_tensor, SymInt offset) -> ()");
  m.def(
      "kac_pair.to(Tensor x0, Tensor t, Tensor t_to, str process, float a, float c, str f, str g, float kappa, "
      "SymInt seed, Tensor? seed_tensor, SymInt offset) -> (Tensor, Tensor, Tensor)");
  m.def(
      "kac_pair.to_out(Tensor x0, Tensor t, Tensor t_to, Tensor(a!) x_t, Tensor(b!) u, Tensor(c!) x_to, str process, "
      "float a, float c, str f, str g, float kappa, SymInt seed, Tensor? seed_tensor, SymInt offset) -> ()");
  m.def(
      "guided_velocity(Tensor u_cond, Tensor u_uncond, float w, Tensor? w_rows, float? max_speed, str process) "
      "-> Tensor");
  m.def(
      "guided_step(Tensor x, Tensor u_cond, Tensor? u_uncond, Tensor? u_prev, float w, float h, float h_prev, "
      "Tensor? w_rows, Tensor? h_rows, Tensor? h_prev_rows, float? max_speed, str process) -> (Tensor, Tensor)");
  m.def(
      "guided_step.out(Tensor x, Tensor u_cond, Tensor? u_uncond, Tensor? u_prev, Tensor(a!) x_next, Tensor(b!) u, "
      "float w, float h, float h_prev, Tensor? w_rows, Tensor? h_rows, Tensor? h_prev_rows, float? max_speed, "
      "str process) -> ()");
  m.def("endpoint_loss(Tensor x, Tensor u, Tensor x_end, Tensor delta, Tensor? weight) -> (Tensor, Tensor)");
  m.def(
      "endpoint_loss.out(Tensor x, Tensor u, Tensor x_end, Tensor delta, Tensor? weight, Tensor(a!) grad_u) "
      "-> Tensor");
  m.def(
      "group_norm(Tensor x, Tensor weight, Tensor bias, int groups, float eps, bool silu) -> (Tensor, Tensor, Tensor)");
  m.def(
      "group_norm_grad(Tensor grad_y, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor inverse_deviation, "
      "bool silu) -> (Tensor, Tensor, Tensor)");
}

template <class Device>
static void register_ops(torch::stable::detail::StableLibrary& m) {
  m.impl("kac_noise", TORCH_BOX(&distillkac::kac_noise<Device>));
  m.impl("kac_noise.out", TORCH_BOX(&distillkac::kac_noise_out<Device>));
  m.impl("kac_velocity", TORCH_BOX(&distillkac::kac_velocity<Device>));
  m.impl("kac_velocity.out", TORCH_BOX(&distillkac::kac_velocity_out<Device>));
  m.impl("kac_pair", TORCH_BOX(&distillkac::kac_pair<Device>));
  m.impl("kac_pair.out", TORCH_BOX(&distillkac::kac_pair_out<Device>));
  m.impl("kac_pair.to", TORCH_BOX(&distillkac::kac_pair_to<Device>));
  m.impl("kac_pair.to_out", TORCH_BOX(&distillkac::kac_pair_to_out<Device>));
  m.impl("guided_velocity", TORCH_BOX(&distillkac::guided_velocity<Device>));
  m.impl("guided_step", TORCH_BOX(&distillkac::guided_step<Device>));
  m.impl("guided_step.out", TORCH_BOX(&distillkac::guided_step_out<Device>));
  m.impl("endpoint_loss", TORCH_BOX(&distillkac::endpoint_loss<Device>));
  m.impl("endpoint_loss.out", TORCH_BOX(&distillkac::endpoint_loss_out<Device>));
}

STABLE_TORCH_LIBRARY_IMPL(distillkac, CPU, m) {
  register_ops<distillkac::Cpu>(m);
  m.impl("group_norm", TORCH_BOX(&distillkac::group_norm));
  m.impl("group_norm_grad", TORCH_BOX(&distillkac::group_norm_grad));
}

#ifdef DISTILLKAC_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(distillkac, CUDA, m) { register_ops<distillkac::Cuda>(m); }
#endif
