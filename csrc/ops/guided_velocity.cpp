// CPU: classifier-free guidance of velocities in one pass.
#include "cpu_ops.h"
#include "guidance.h"

DK_NAMESPACE_BEGIN

bool guided_velocity_cpu(const GuidedVelocityArgs& args, int64_t begin, int64_t end) {
  const float max_speed = float(args.limit.most);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Chunk chunk = chunk_of(args.rows, kChunk, unit);
    const float w = float(row_scalar(args.w, chunk.row));
    if (!std::isfinite(w)) return false;
    with_dtype(args.dtype, [&](auto element) {
      using T = decltype(element);
      const int64_t start = chunk.row * args.rows.width;
      const T *cond = static_cast<const T*>(args.u_cond) + start,
              *uncond = static_cast<const T*>(args.u_uncond) + start;
      T* out = static_cast<T*>(args.u) + start;
      if (!limits_pairs(args.limit)) {
        for_each_vector<Lanes>(chunk.begin, chunk.end, [&](auto lanes, int64_t i) {
          using V = decltype(lanes);
          V::store(out + i, limit_coordinate<V>(guided<V>(V::load(cond + i), V::load(uncond + i), w), max_speed));
        });
      } else {
        for_each_pair_vector<Lanes>(chunk.begin, chunk.end, [&](auto lanes, int64_t i) {
          using V = decltype(lanes);
          typename V::F cx, cy, ux, uy;
          load_pairs<V>(cond + i, cx, cy);
          load_pairs<V>(uncond + i, ux, uy);
          typename V::F x = guided<V>(cx, ux, w), y = guided<V>(cy, uy, w);
          limit_pair<V>(x, y, max_speed);
          store_pairs<V>(out + i, x, y);
        });
      }
    });
  }
  return true;
}

DK_NAMESPACE_END
