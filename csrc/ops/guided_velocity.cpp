// CPU: classifier-free guidance of velocities in one pass.
#include "cpu_ops.h"
#include "guidance.h"

DK_NAMESPACE_BEGIN

template <int kGroup, class T>
static void velocity_chunk(const GuidedVelocityArgs& args, float w, const Chunk& chunk) {
  const int64_t start = chunk.row * args.rows.width;
  const T *cond = static_cast<const T*>(args.u_cond) + start, *uncond = static_cast<const T*>(args.u_uncond) + start;
  T* out = static_cast<T*>(args.u) + start;
  const float max_speed = float(args.limit.most);
  for_each_group_vector<Lanes, kGroup>(chunk.begin, chunk.end, [&](auto lanes, int64_t i) DK_INLINE_LAMBDA {
    using V = decltype(lanes);
    typename V::F u[kGroup], other[kGroup];
    load_groups<V, kGroup>(cond + i, u);
    load_groups<V, kGroup>(uncond + i, other);
    DK_UNROLL
    for (int n = 0; n < kGroup; ++n) u[n] = guided<V>(u[n], other[n], w);
    limit_group<V, kGroup>(u, max_speed);
    store_groups<V, kGroup>(out + i, u);
  });
}

bool guided_velocity_cpu(const GuidedVelocityArgs& args, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const Chunk chunk = chunk_of(args.rows, kChunk, unit);
    const float w = float(row_scalar(args.w, chunk.row));
    if (!std::isfinite(w)) return false;
    with_dtype(args.dtype, [&](auto element) {
      with_group(args.limit, [&](auto group) { velocity_chunk<group(), decltype(element)>(args, w, chunk); });
    });
  }
  return true;
}

DK_NAMESPACE_END
