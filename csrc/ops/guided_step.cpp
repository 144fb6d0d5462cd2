// CPU: guidance and an Euler or AB-2 step in one pass; x_next may be x, u may be u_prev.
#include "guided_step.h"

#include "cpu_ops.h"

DK_NAMESPACE_BEGIN

template <bool kGuided, bool kAb2, class T>
static void step_chunk(const GuidedStepArgs& args, const Chunk& chunk) {
  const int64_t start = chunk.row * args.rows.width;
  const T *x = static_cast<const T*>(args.x) + start, *cond = static_cast<const T*>(args.u_cond) + start;
  const T* uncond = kGuided ? static_cast<const T*>(args.u_uncond) + start : nullptr;
  const T* prev = kAb2 ? static_cast<const T*>(args.u_prev) + start : nullptr;
  T *x_next = static_cast<T*>(args.x_next) + start, *u_out = static_cast<T*>(args.u) + start;
  const StepRow row = step_row(args, chunk.row);
  const float max_speed = float(args.limit.most);

  if (!limits_pairs(args.limit)) {
    for_each_vector<Lanes>(chunk.begin, chunk.end, [&](auto lanes, int64_t i) {
      using V = decltype(lanes);
      typename V::F u = V::load(cond + i), before = u;
      if constexpr (kGuided) u = guided<V>(u, V::load(uncond + i), row.w);
      if constexpr (kAb2) before = V::load(prev + i);  // before u is stored: the two may be the same memory
      u = limit_coordinate<V>(u, max_speed);
      const typename V::F next = stepped<V>(V::load(x + i), u, before, row, kAb2);
      V::store(u_out + i, u);
      V::store(x_next + i, next);
    });
    return;
  }
  for_each_pair_vector<Lanes>(chunk.begin, chunk.end, [&](auto lanes, int64_t i) {
    using V = decltype(lanes);
    typename V::F ux, uy, other_x, other_y, x1, y1;
    load_pairs<V>(cond + i, ux, uy);
    if constexpr (kGuided) {
      load_pairs<V>(uncond + i, other_x, other_y);
      ux = guided<V>(ux, other_x, row.w), uy = guided<V>(uy, other_y, row.w);
    }
    limit_pair<V>(ux, uy, max_speed);
    other_x = ux, other_y = uy;
    if constexpr (kAb2) load_pairs<V>(prev + i, other_x, other_y);
    load_pairs<V>(x + i, x1, y1);
    store_pairs<V>(u_out + i, ux, uy);
    store_pairs<V>(x_next + i, stepped<V>(x1, ux, other_x, row, kAb2), stepped<V>(y1, uy, other_y, row, kAb2));
  });
}

bool guided_step_cpu(const GuidedStepArgs& args, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const Chunk chunk = chunk_of(args.rows, kChunk, unit);
    if (!step_row(args, chunk.row).is_finite()) return false;
    with_dtype(args.dtype, [&](auto element) {
      using T = decltype(element);
      if (args.u_uncond)
        args.u_prev ? step_chunk<true, true, T>(args, chunk) : step_chunk<true, false, T>(args, chunk);
      else
        args.u_prev ? step_chunk<false, true, T>(args, chunk) : step_chunk<false, false, T>(args, chunk);
    });
  }
  return true;
}

DK_NAMESPACE_END
