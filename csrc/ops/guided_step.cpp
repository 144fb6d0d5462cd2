// CPU: guidance and an Euler or AB-2 step in one pass; x_next may be x, u may be u_prev.
#include "guided_step.h"

#include "cpu_ops.h"

DK_NAMESPACE_BEGIN

template <bool kGuided, bool kAb2, int kGroup, class T>
static void step_chunk(const GuidedStepArgs& args, const Chunk& chunk) {
  const int64_t start = chunk.row * args.rows.width;
  const T *x = static_cast<const T*>(args.x) + start, *cond = static_cast<const T*>(args.u_cond) + start;
  const T* uncond = kGuided ? static_cast<const T*>(args.u_uncond) + start : nullptr;
  const T* prev = kAb2 ? static_cast<const T*>(args.u_prev) + start : nullptr;
  T *x_next = static_cast<T*>(args.x_next) + start, *u_out = static_cast<T*>(args.u) + start;
  const StepRow row = step_row(args, chunk.row);
  const float max_speed = float(args.limit.most);

  for_each_group_vector<Lanes, kGroup>(chunk.begin, chunk.end, [&](auto lanes, int64_t i) DK_INLINE_LAMBDA {
    using V = decltype(lanes);
    typename V::F u[kGroup], other[kGroup], next[kGroup];
    load_groups<V, kGroup>(cond + i, u);
    if constexpr (kGuided) {
      load_groups<V, kGroup>(uncond + i, other);
      DK_UNROLL
      for (int n = 0; n < kGroup; ++n) u[n] = guided<V>(u[n], other[n], row.w);
    }
    limit_group<V, kGroup>(u, max_speed);
    if constexpr (kAb2) load_groups<V, kGroup>(prev + i, other);  // before u is stored: they may be the same memory
    load_groups<V, kGroup>(x + i, next);
    DK_UNROLL
    for (int n = 0; n < kGroup; ++n) next[n] = stepped<V>(next[n], u[n], kAb2 ? other[n] : u[n], row, kAb2);
    store_groups<V, kGroup>(u_out + i, u);
    store_groups<V, kGroup>(x_next + i, next);
  });
}

bool guided_step_cpu(const GuidedStepArgs& args, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const Chunk chunk = chunk_of(args.rows, kChunk, unit);
    if (!step_row(args, chunk.row).is_finite()) return false;
    with_dtype(args.dtype, [&](auto element) {
      with_group(args.limit, [&](auto group) {
        using T = decltype(element);
        constexpr int kGroup = group();
        if (args.u_uncond)
          args.u_prev ? step_chunk<true, true, kGroup, T>(args, chunk)
                      : step_chunk<true, false, kGroup, T>(args, chunk);
        else
          args.u_prev ? step_chunk<false, true, kGroup, T>(args, chunk)
                      : step_chunk<false, false, kGroup, T>(args, chunk);
      });
    });
  }
  return true;
}

DK_NAMESPACE_END
