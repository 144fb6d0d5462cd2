// CPU: the training pair (x_0, t) -> (x_t, u) in one pass; displacement and velocity stay in registers.
#include "kac_pair.h"

#include "cpu_draws.h"
#include "cpu_ops.h"

DK_NAMESPACE_BEGIN

bool kac_pair_cpu(const KacPairArgs& args, int64_t begin, int64_t end) {
  const auto bridge = [&](int64_t row) { return bridge_row(row_scalar(args.t, row), args.f, args.g, args.kappa); };
  return with_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    return Draws(args.kac, args.seed)
        .for_each<true, false>(
            args.rows, begin, end,
            [&](int64_t row) { return row_scalar(args.t, row) >= 0 ? bridge(row).g : double(NAN); },
            [&](int64_t row) {
              const int64_t start = row * args.rows.width;
              return [row = bridge(row), x0 = static_cast<const T*>(args.x0) + start,
                      x_t = static_cast<T*>(args.x_t) + start,
                      u = static_cast<T*>(args.u) + start](auto lanes, int64_t i, auto k, auto v) DK_INLINE_LAMBDA {
                using V = decltype(lanes);
                const Bridge<V> bridge(row);
                const typename V::F data = V::load(x0 + i);
                V::store(x_t + i, bridge.x_t(data, k));
                V::store(u + i, bridge.u(data, v));
              };
            });
  });
}

DK_NAMESPACE_END
