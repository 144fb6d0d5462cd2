// CPU: the conditional velocity of given displacements. |k| = float32(c t), the value the sampler gives to particles
// that never turned, is on the cone; anything further out than rounding explains is refused.
#include "kac_velocity.h"

#include "../planar/flight.h"
#include "../quad/flight.h"
#include "../telegraph/velocity.h"
#include "cpu_ops.h"

DK_NAMESPACE_BEGIN

template <class T>
static bool telegraph_chunk(const TelegraphVelocityRow& row, const T* k, T* v, const Chunk& chunk) {
  const float limit = cone_limit(row.cone, cone_rounding(T{})) * row.cone.unscale;
  bool inside = true;
  for_each_vector<Lanes>(chunk.begin, chunk.end, [&](auto lanes, int64_t i) {
    using V = decltype(lanes);
    const typename V::F x = V::load(k + i), ax = V::abs(x), radius = V::splat(row.cone.radius);
    const typename V::M on_cone = V::less(radius, V::from_bits(V::add_bits(V::bits(ax), V::splat_bits(1))));
    V::store(v + i, telegraph_velocity<V>(x, on_cone, row));
    inside = inside && !V::any(V::less(V::splat(limit), ax));
  });
  return inside;
}

template <class T>
static bool planar_chunk(const PlanarVelocityRow& row, const T* k, T* v, const Chunk& chunk) {
  const float limit = cone_limit(row.cone, cone_rounding(T{})), limit2 = limit * limit;
  bool inside = true;
  for_each_group_vector<Lanes, 2>(chunk.begin, chunk.end, [&](auto lanes, int64_t i) DK_INLINE_LAMBDA {
    using V = decltype(lanes);
    typename V::F x[2], moving[2];
    load_groups<V, 2>(k + i, x);
    planar_velocity<V>(row, x[0], x[1], moving[0], moving[1]);
    store_groups<V, 2>(v + i, moving);
    const typename V::F xs = x[0] * V::splat(row.cone.scale), ys = x[1] * V::splat(row.cone.scale);
    inside = inside && !V::any(V::less(V::splat(limit2), V::fma(xs, xs, ys * ys)));
  });
  return inside;
}

template <class T>
static bool quad_chunk(const QuadVelocityRow& row, const T* k, T* v, const Chunk& chunk) {
  const float limit = cone_limit(row.cone, cone_rounding(T{})), limit2 = limit * limit;
  bool inside = true;
  for_each_group_vector<Lanes, 4>(chunk.begin, chunk.end, [&](auto lanes, int64_t i) DK_INLINE_LAMBDA {
    using V = decltype(lanes);
    typename V::F x[4], moving[4];
    load_groups<V, 4>(k + i, x);
    const typename V::F size2 = quad_velocity<V>(row, x, moving);
    store_groups<V, 4>(v + i, moving);
    inside = inside && !V::any(V::less(V::splat(limit2), size2));
  });
  return inside;
}

template <class T>
static bool velocity_chunk(const KacVelocityArgs& args, double t, const Chunk& chunk) {
  const T* k = static_cast<const T*>(args.k) + chunk.row * args.rows.width;
  T* v = static_cast<T*>(args.v) + chunk.row * args.rows.width;
  switch (args.kac.process) {
    case Process::kTelegraph:
      return telegraph_chunk(telegraph_velocity_row(t, args.kac.a, args.kac.c), k, v, chunk);
    case Process::kPlanar:
      return planar_chunk(planar_velocity_row(t, args.kac.c), k, v, chunk);
    case Process::kQuad:
      return quad_chunk(quad_velocity_row(t, args.kac.a, args.kac.c, cone_rounding(T{})), k, v, chunk);
  }
  DK_UNREACHABLE();
}

// Is every displacement of a chunk, of n neighbours, on the cone or inside? As the loops above find it, bit by bit.
template <int n, class T>
static bool is_inside(const LightCone& cone, const T* k, const Chunk& chunk) {
  const float limit = cone_limit(cone, cone_rounding(T{}));
  bool inside = true;
  for_each_group_vector<Lanes, n>(chunk.begin, chunk.end, [&](auto lanes, int64_t i) DK_INLINE_LAMBDA {
    using V = decltype(lanes);
    using F = typename V::F;
    F x[n];
    load_groups<V, n>(k + i, x);
    if constexpr (n == 1) {
      inside = inside && !V::any(V::less(V::splat(limit * cone.unscale), V::abs(x[0])));
    } else {
      DK_UNROLL
      for (int j = 0; j < n; ++j) x[j] = x[j] * V::splat(cone.scale);
      F square = n == 2 ? V::fma(x[0], x[0], x[n - 1] * x[n - 1]) : V::splat(0.f);
      if constexpr (n == 4) {
        DK_UNROLL
        for (int j = 0; j < n; ++j) square = square + x[j] * x[j];
      }
      inside = inside && !V::any(V::less(V::splat(limit * limit), square));
    }
  });
  return inside;
}

bool kac_velocity_covers_cpu(const KacVelocityArgs& args, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const Chunk chunk = chunk_of(args.rows, kChunk, unit);
    const double t = row_time(args.t, chunk.row);
    if (!row_is_valid(t, args.kac.a, args.kac.c)) return false;
    const LightCone cone = light_cone(t, args.kac.c);
    const bool inside = with_dtype(args.dtype, [&](auto element) {
      using T = decltype(element);
      const T* k = static_cast<const T*>(args.k) + chunk.row * args.rows.width;
      switch (args.kac.process) {
        case Process::kTelegraph:
          return is_inside<1>(cone, k, chunk);
        case Process::kPlanar:
          return is_inside<2>(cone, k, chunk);
        case Process::kQuad:
          return is_inside<4>(cone, k, chunk);
      }
      DK_UNREACHABLE();
    });
    if (!inside) return false;
  }
  return true;
}

bool kac_velocity_cpu(const KacVelocityArgs& args, int64_t begin, int64_t end) {
  bool inside = true;
  for (int64_t unit = begin; unit < end; ++unit) {
    const Chunk chunk = chunk_of(args.rows, kChunk, unit);
    const double t = row_time(args.t, chunk.row);
    if (!row_is_valid(t, args.kac.a, args.kac.c)) return false;
    const bool all =
        with_dtype(args.dtype, [&](auto element) { return velocity_chunk<decltype(element)>(args, t, chunk); });
    inside = inside && all;
  }
  return inside;
}

DK_NAMESPACE_END
