// CPU: the training pair (x_0, t) -> (x_t, u) in one pass; displacement and velocity stay in registers.
#include "kac_pair.h"

#include "cpu_draws.h"
#include "cpu_ops.h"

DK_NAMESPACE_BEGIN

// Takes the draws of one row: element i becomes x_t and u.
template <class T>
struct PairSink {
  BridgeRow row;
  const T* x0;
  T *x_t, *u;

  template <class V>
  DK_INLINE void operator()(V, int64_t i, typename V::F k, typename V::F v) const {
    const Bridge<V> bridge(row);
    const typename V::F data = V::load(x0 + i);
    V::store(x_t + i, bridge.x_t(data, k));
    V::store(u + i, bridge.u(data, v));
  }
};

bool kac_pair_cpu(const KacPairArgs& args, int64_t begin, int64_t end) {
  const Draws draws(args.kac, args.seed);
  const auto bridge = [&](int64_t row) { return bridge_row(row_scalar(args.t, row), args.f, args.g, args.kappa); };
  const auto time = [&](int64_t row) { return row_scalar(args.t, row) >= 0 ? bridge(row).g : double(NAN); };
  return with_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    return draws.for_each<true, false>(args.rows, begin, end, time, [&](int64_t row) {
      const int64_t start = row * args.rows.width;
      return PairSink<T>{bridge(row), static_cast<const T*>(args.x0) + start, static_cast<T*>(args.x_t) + start,
                         static_cast<T*>(args.u) + start};
    });
  });
}

DK_NAMESPACE_END
