// One case of one op through the AVX2 kernels, without torch, for callgrind: it counts the instructions of measured().
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "kernels.h"

namespace distillkac::avx2 {
extern const CpuKernels kKernels;
}

using namespace distillkac;

static std::function<bool()> work;
extern "C" __attribute__((noinline)) bool measured() { return work(); }

// driver OP PROCESS ROWS WIDTH: prints the elements done.
int main(int, char** argv) {
  const std::string op = argv[1];
  const std::string name = argv[2];
  const Process process = name == "quad" ? Process::kQuad : name == "planar" ? Process::kPlanar : Process::kTelegraph;
  const Rows rows{std::atoll(argv[3]), std::atoll(argv[4])};
  const int64_t n = rows.count * rows.width;
  const Kac kac{process, 25, 2};
  std::vector<double> t(rows.count);
  for (int64_t b = 0; b < rows.count; ++b) t[b] = (b + 0.5) / double(rows.count);
  std::vector<float> x(n), y(n), z(n), w(n), out(n), out2(n);
  for (int64_t i = 0; i < n; ++i) {
    x[i] = float(i % 97) / 97 - 0.5f, y[i] = float(i % 89) / 89, z[i] = float(i % 83) / 83, w[i] = float(i % 79) / 79;
  }
  std::vector<double> sums(units_in(rows, kLossChunk));
  std::vector<float> means(rows.count * 8), inverses(rows.count * 8), parts(rows.count * 2 * 48);
  float loss;
  const RowScalar times{t.data(), true, 0};
  const CpuKernels& kernels = avx2::kKernels;
  const KacNoiseArgs noise{out.data(), times, rows, Dtype::kFloat32, kac, {nullptr, 1, 0}};
  // Every op's units: the whole of each row here, since no row is longer than a chunk.
  const auto units = [&](int64_t chunk) { return units_in(rows, chunk); };
  if (op == "kac_noise") {
    work = [&] { return kernels.kac_noise(noise, 0, units(kChunk)); };
  } else if (op == "kac_velocity") {
    if (!kernels.kac_noise(noise, 0, units(kChunk))) return 1;
    work = [&] {
      return kernels.kac_velocity({out.data(), out2.data(), times, rows, Dtype::kFloat32, kac}, 0, units(kChunk));
    };
  } else if (op == "kac_pair" || op == "kac_pair_bfloat16") {  // half of each buffer holds n 16-bit numbers
    const Dtype dtype = op == "kac_pair" ? Dtype::kFloat32 : Dtype::kBFloat16;
    work = [&, dtype] {
      return kernels.kac_pair({x.data(),
                               out.data(),
                               out2.data(),
                               times,
                               rows,
                               dtype,
                               kac,
                               FSchedule::kLinear,
                               GSchedule::kLinear,
                               1,
                               {nullptr, 1, 0}},
                              0, units(kChunk));
    };
  } else if (op == "kac_pair_to") {
    work = [&] {
      return kernels.kac_pair({x.data(),
                               out.data(),
                               out2.data(),
                               times,
                               rows,
                               Dtype::kFloat32,
                               kac,
                               FSchedule::kLinear,
                               GSchedule::kLinear,
                               1,
                               {nullptr, 1, 0},
                               y.data(),
                               {nullptr, false, 0.4}},
                              0, units(kChunk));
    };
  } else if (op == "guided_velocity") {
    work = [&] {
      return kernels.guided_velocity(
          {x.data(), y.data(), out.data(), {nullptr, false, 1.5}, rows, Dtype::kFloat32, {process, 2}}, 0,
          units(kChunk));
    };
  } else if (op == "guided_step") {
    work = [&] {
      return kernels.guided_step({x.data(),
                                  y.data(),
                                  z.data(),
                                  w.data(),
                                  out.data(),
                                  out2.data(),
                                  {nullptr, false, 1.5},
                                  {nullptr, false, 0.1},
                                  {nullptr, false, 0.1},
                                  rows,
                                  Dtype::kFloat32,
                                  {process, 2}},
                                 0, units(kChunk));
    };
  } else if (op == "endpoint_loss") {
    work = [&] {
      return kernels.endpoint_loss({x.data(),
                                    y.data(),
                                    z.data(),
                                    out.data(),
                                    {nullptr, false, 0.5},
                                    {nullptr, false, 1},
                                    rows,
                                    Dtype::kFloat32,
                                    sums.data(),
                                    &loss},
                                   0, units(kLossChunk));
    };
  } else if (op == "group_norm" || op == "group_norm_grad") {  // images of 48 channels
    const GroupNormArgs norm{x.data(), out.data(), y.data(), z.data(), means.data(), inverses.data(),
                             rows,     48,         8,        1e-5,     true,         Dtype::kFloat32};
    if (!kernels.group_norm(norm, 0, rows.count)) return 1;
    if (op == "group_norm")
      work = [&, norm] { return kernels.group_norm(norm, 0, rows.count); };
    else
      work = [&] {
        return kernels.group_norm_grad({x.data(), w.data(), out2.data(), y.data(), z.data(), means.data(),
                                        inverses.data(), parts.data(), rows, 48, 8, true, Dtype::kFloat32},
                                       0, rows.count);
      };
  } else {
    return 2;
  }
  if (!measured()) return 1;
  std::printf("%lld\n", static_cast<long long>(n));
}
