// Every CPU kernel at every SIMD level over many shapes, dtypes and options, without torch, for the sanitizers. Arrays
// have exactly the elements the kernel is told of, at addresses no vector is aligned to, and poisoned bytes before
// them. Besides what a sanitizer sees, each result must have the bits of the first level's, for one thread and for four
// that share the work units as torch's parallel_for would hand them out. Compile with -DLEVELS="LEVEL(portable) ...".
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "buffers.h"
#include "kernels.h"

#define LEVEL(name)                 \
  namespace distillkac::name {      \
  extern const CpuKernels kKernels; \
  }
LEVELS
#undef LEVEL

using namespace distillkac;

namespace {

struct Level {
  const char* name;
  const CpuKernels* kernels;
};
#define LEVEL(name) {#name, &distillkac::name::kKernels},
const Level kLevels[] = {LEVELS};
#undef LEVEL

// One row scalar a row, as float64 or float32.
struct RowValues {
  Buffer buffer;
  RowScalar scalar;
  RowValues(int64_t rows, bool is_double, const std::function<double(int64_t)>& value)
      : buffer(size_t(rows) * (is_double ? 8 : 4), is_double ? 8 : 4), scalar{buffer.data(), is_double, 0} {
    for (int64_t b = 0; b < rows; ++b) {
      const double exact = value(b);
      const float single = float(exact);
      std::memcpy(buffer.data() + b * (is_double ? 8 : 4), is_double ? static_cast<const void*>(&exact) : &single,
                  is_double ? 8 : 4);
    }
  }
};

using Work = std::function<bool(const CpuKernels&, int64_t begin, int64_t end)>;

// Work units [0, units) in pieces of `grain`, by `threads` threads.
bool for_all_units(const Work& work, const CpuKernels& kernels, int64_t units, int threads, int64_t grain) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> valid{true};
  const auto loop = [&] {
    for (int64_t begin; (begin = next.fetch_add(grain)) < units;)
      if (!work(kernels, begin, begin + grain < units ? begin + grain : units)) valid = false;
  };
  std::vector<std::thread> team;
  for (int i = 1; i < threads; ++i) team.emplace_back(loop);
  loop();
  for (std::thread& thread : team) thread.join();
  return valid;
}

long long cases = 0;
int failures = 0;
uint64_t digest = 14695981039346656037u;  // of all results of the first level

// make() gives fresh output buffers and the work that fills them; all levels and threads must agree.
struct Job {
  std::vector<Buffer> out;
  Work work;
};
void check(const char* op, const Rows& rows, Dtype dtype, int64_t chunk, const std::function<void(Job&)>& make,
           bool expected = true) {
  const int64_t units = units_in(rows, chunk);
  std::unique_ptr<Job> first;
  for (const Level& level : kLevels) {
    for (int team = 1; team <= 4; team += 3) {
      auto job = std::make_unique<Job>();
      make(*job);
      ++cases;
      bool same =
          for_all_units(job->work, *level.kernels, units, team, team == 1 ? units + 1 : 1 + units / 7) == expected;
      if (expected && first)
        for (size_t i = 0; i < job->out.size(); ++i) same = same && job->out[i].equals(first->out[i]);
      if (!same) {
        ++failures;
        std::printf("%s at %s, %d threads, %lld rows of %lld, dtype %d: other bits or verdict than expected\n", op,
                    level.name, team, static_cast<long long>(rows.count), static_cast<long long>(rows.width),
                    int(dtype));
      }
      if (expected && !first)
        for (Buffer& out : job->out) out.add_to(digest);
      if (!first) first = std::move(job);
    }
  }
}

void run(const Rows& rows, Dtype dtype, Process process, bool is_double) {
  const int64_t n = rows.count * rows.width;
  const size_t size = size_t(n) * bytes_of(dtype), lead = bytes_of(dtype);
  const Kac kac{process, 9, 3};
  // Small rows, the table's inside, its last nodes.
  const RowValues t(rows.count, is_double, [](int64_t b) {
    return b % 5 == 0 ? 1e-5 : b % 5 == 1 ? 4e6 : 0.07 * double(b % 17);
  });
  const RowValues above(rows.count, is_double, [](int64_t b) { return 0.5 + 0.25 * double(b % 3); });
  const RowValues bad(rows.count, is_double, [&](int64_t b) { return b == rows.count - 1 ? -1.0 : 0.5; });
  const Buffer seed_buffer = [] {
    Buffer b(8, 8);
    const int64_t s = -7;
    std::memcpy(b.data(), &s, 8);
    return b;
  }();
  const Seed seed{nullptr, 5, (int64_t(1) << 32) - 3},
      seed_tensor{reinterpret_cast<const int64_t*>(const_cast<Buffer&>(seed_buffer).data()), 0, 0};
  Buffer x = numbers(n, dtype, 1), y = numbers(n, dtype, 77), z = numbers(n, dtype, 991), w = numbers(n, dtype, 5557);
  const RowScalar weight{nullptr, false, 1.5}, half{nullptr, false, 0.5};

  for (const Seed& source : {seed, seed_tensor}) {
    check("kac_noise", rows, dtype, kChunk, [&](Job& job) {
      job.out.emplace_back(size, lead);
      job.work = [args = KacNoiseArgs{job.out[0].data(), t.scalar, rows, dtype, kac, source}](
                     const CpuKernels& k, int64_t begin, int64_t end) { return k.kac_noise(args, begin, end); };
    });
  }
  if (n > 0) {
    check(
        "kac_noise with t < 0", rows, dtype, kChunk,
        [&](Job& job) {
          job.out.emplace_back(size, lead);
          job.work = [args = KacNoiseArgs{job.out[0].data(), bad.scalar, rows, dtype, kac, seed}](
                         const CpuKernels& k, int64_t begin, int64_t end) { return k.kac_noise(args, begin, end); };
        },
        false);
  }
  check("kac_velocity", rows, dtype, kChunk, [&](Job& job) {  // |k| < .71 < c t
    job.out.emplace_back(size, lead);
    job.work = [args = KacVelocityArgs{x.data(), job.out[0].data(), above.scalar, rows, dtype, kac}](
                   const CpuKernels& k, int64_t begin, int64_t end) { return k.kac_velocity(args, begin, end); };
  });
  for (const auto f : {FSchedule::kLinear, FSchedule::kCosine, FSchedule::kExp}) {
    const GSchedule g = f == FSchedule::kCosine ? GSchedule::kQuadratic : GSchedule::kLinear;
    check("kac_pair", rows, dtype, kChunk, [&](Job& job) {
      job.out.emplace_back(size, lead), job.out.emplace_back(size, lead);
      const RowScalar& time = g == GSchedule::kLinear ? t.scalar : above.scalar;
      job.work =
          [args = KacPairArgs{x.data(), job.out[0].data(), job.out[1].data(), time, rows, dtype, kac, f, g, 0.7, seed}](
              const CpuKernels& k, int64_t begin, int64_t end) { return k.kac_pair(args, begin, end); };
    });
  }
  for (const RowScalar& time_to : {above.scalar, t.scalar}) {
    check("kac_pair at two times", rows, dtype, kChunk, [&](Job& job) {
      for (int i = 0; i < 3; ++i) job.out.emplace_back(size, lead);
      job.work = [args = KacPairArgs{x.data(), job.out[0].data(), job.out[1].data(), t.scalar, rows, dtype, kac,
                                     FSchedule::kLinear, GSchedule::kLinear, 0.7, seed, job.out[2].data(), time_to}](
                     const CpuKernels& k, int64_t begin, int64_t end) { return k.kac_pair(args, begin, end); };
    });
  }
  for (const double max_speed : {double(INFINITY), 0.3}) {
    const SpeedLimit limit{process, max_speed};
    check("guided_velocity", rows, dtype, kChunk, [&](Job& job) {
      job.out.emplace_back(size, lead);
      job.work = [args = GuidedVelocityArgs{x.data(), y.data(), job.out[0].data(), above.scalar, rows, dtype, limit}](
                     const CpuKernels& k, int64_t begin, int64_t end) { return k.guided_velocity(args, begin, end); };
    });
    for (const int parts : {0, 1, 2, 3}) {
      void *uncond = parts & 1 ? z.data() : nullptr, *prev = parts & 2 ? w.data() : nullptr;
      check("guided_step", rows, dtype, kChunk, [&](Job& job) {
        job.out.emplace_back(size, lead), job.out.emplace_back(size, lead);
        job.work = [args = GuidedStepArgs{x.data(), y.data(), uncond, prev, job.out[0].data(), job.out[1].data(),
                                          weight, above.scalar, half, rows, dtype, limit}](
                       const CpuKernels& k, int64_t begin, int64_t end) { return k.guided_step(args, begin, end); };
      });
    }
  }
  if (n == 0) return;
  check("endpoint_loss", rows, dtype, kLossChunk, [&](Job& job) {
    job.out.emplace_back(size_t(n) * 4);
    job.out.emplace_back(size_t(units_in(rows, kLossChunk)) * 8, 8);
    job.work = [args = EndpointLossArgs{x.data(), y.data(), z.data(), reinterpret_cast<float*>(job.out[0].data()),
                                        above.scalar, weight, rows, dtype, reinterpret_cast<double*>(job.out[1].data()),
                                        nullptr}](const CpuKernels& k, int64_t begin, int64_t end) {
      return k.endpoint_loss(args, begin, end);
    };
  });
}

// Group normalisation of images with their channels last, and its gradient by moments of its own making.
void run_group_norm(int64_t count, int64_t positions, int64_t channels, int64_t groups, Dtype dtype, bool silu) {
  const Rows rows{count, positions * channels};
  const size_t size = size_t(count * rows.width) * bytes_of(dtype), lead = bytes_of(dtype);
  Buffer x = numbers(count * rows.width, dtype, 1), grad = numbers(count * rows.width, dtype, 77);
  const auto floats = [](int64_t n, uint32_t seed) { return numbers(n, Dtype::kFloat32, seed); };
  const auto at = [](Buffer& buffer) { return reinterpret_cast<float*>(buffer.data()); };
  Buffer weight = floats(channels, 3), bias = floats(channels, 5), mean = floats(count * groups, 7);
  Buffer inverse = floats(count * groups, 9);
  check("group_norm", rows, dtype, rows.width, [&](Job& job) {
    job.out.emplace_back(size, lead);
    for (int i = 0; i < 2; ++i) job.out.emplace_back(size_t(count * groups) * 4);
    job.work = [args = GroupNormArgs{x.data(), job.out[0].data(), at(weight), at(bias), at(job.out[1]), at(job.out[2]),
                                     rows, channels, groups, 1e-5, silu, dtype}](
                   const CpuKernels& k, int64_t begin, int64_t end) { return k.group_norm(args, begin, end); };
  });
  check("group_norm_grad", rows, dtype, rows.width, [&](Job& job) {
    job.out.emplace_back(size, lead);
    job.out.emplace_back(size_t(count * 2 * channels) * 4);
    job.work = [args = GroupNormGradArgs{x.data(), grad.data(), job.out[0].data(), at(weight), at(bias), at(mean),
                                         at(inverse), at(job.out[1]), rows, channels, groups, silu, dtype}](
                   const CpuKernels& k, int64_t begin, int64_t end) { return k.group_norm_grad(args, begin, end); };
  });
}

}  // namespace

// driver quick|full|threads: the number of cases, or what differed (exit code 1), and a digest of all bits.
int main(int, char** argv) {
  const std::string kind = argv[1];
  const bool full = kind == "full";
  std::vector<Rows> shapes = {{0, 8}, {3, 0}, {3, 2}, {70, 16}, {3, 66}, {2, 2050}, {1, 16386}};
  if (kind == "threads") shapes = {{9, 2}, {200, 16}, {9, 66}, {3, 5000}, {2, 16386 * 2}};
  if (full)
    for (const int64_t width : {4, 6, 8, 14, 18, 32, 34, 62, 64, 128, 130, 254, 2048, 16384, 40000})
      shapes.push_back({width > 1000 ? 2 : 5, width});
  if (full)
    for (const int64_t count : {1, 63, 64, 65, 129}) shapes.push_back({count, 10});
  std::vector<Rows> odd = {{2, 1}, {65, 15}, {3, 33}, {2, 127}, {1, 16385}};
  if (kind == "threads") odd = {{70, 1}, {5, 33}, {3, 20001}};
  if (full)
    for (const int64_t width : {3, 5, 7, 9, 13, 17, 31, 63, 65, 129, 255, 2047, 2049, 16383, 33001})
      odd.push_back({width > 1000 ? 2 : 5, width});
  std::vector<Rows> fours;
  for (const Rows& rows : shapes) fours.push_back({rows.count, rows.width + (4 - rows.width % 4) % 4});
  for (const Dtype dtype : kDtypes) {
    for (const bool is_double : {true, false}) {
      if (!full && is_double == (dtype == Dtype::kFloat16)) continue;
      for (const Process process : {Process::kTelegraph, Process::kPlanar})
        for (const Rows& rows : shapes) run(rows, dtype, process, is_double);
      for (const Rows& rows : fours) run(rows, dtype, Process::kQuad, is_double);
      for (const Rows& rows : odd) run(rows, dtype, Process::kTelegraph, is_double);
    }
  }
  // Of channels whole vectors, an eight and single ones; of positions one block or two.
  for (const Dtype dtype : kDtypes)
    for (const bool silu : {true, false}) {
      run_group_norm(5, 7, 33, 3, dtype, silu);
      run_group_norm(2, 259, 26, 2, dtype, silu);
      run_group_norm(8, 1, 8, 8, dtype, silu);
      if (full) run_group_norm(3, 1025, 96, 32, dtype, silu);
    }
  std::printf("%lld cases, %d failures, levels:", cases, failures);
  for (const Level& level : kLevels) std::printf(" %s", level.name);
  std::printf("\ndigest %016llx\n", static_cast<unsigned long long>(digest));
  return failures != 0;
}
