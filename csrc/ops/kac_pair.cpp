// CPU: the training pair (x_0, t) -> (x_t, u), and the state at a second time of the same path, in one pass;
// displacement and velocity stay in registers.
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

// And x_to, from the displacement at t_to.
template <class T>
struct TwoTimesSink {
  BridgeRow row, row_to;
  const T* x0;
  T *x_t, *u, *x_to;

  template <class V>
  DK_INLINE void operator()(V, int64_t i, typename V::F k, typename V::F v, typename V::F k_to) const {
    const Bridge<V> bridge(row), to(row_to);
    const typename V::F data = V::load(x0 + i);  // before any is written: each of the three may be x0
    V::store(x_t + i, bridge.x_t(data, k));
    V::store(u + i, bridge.u(data, v));
    V::store(x_to + i, to.x_t(data, k_to));
  }
};

bool kac_pair_cpu(const KacPairArgs& args, int64_t begin, int64_t end) {
  const Draws draws(args.kac, args.seed);
  const auto bridge = [&](const RowScalar& t, int64_t row) {
    return bridge_row(row_time(t, row), args.f, args.g, args.kappa);
  };
  const auto time = [&](int64_t row) { return age(row_time(args.t, row), args.g); };
  const auto time_to = [&](int64_t row) { return age(row_time(args.t_to, row), args.g); };
  return with_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    const auto at = [&](auto* p, int64_t row) { return p + row * args.rows.width; };
    T *x_t = static_cast<T*>(args.x_t), *u = static_cast<T*>(args.u), *x_to = static_cast<T*>(args.x_to);
    const T* x0 = static_cast<const T*>(args.x0);
    const auto pair = [&](int64_t row) {
      return PairSink<T>{bridge(args.t, row), at(x0, row), at(x_t, row), at(u, row)};
    };
    const auto two_times = [&](int64_t row) {
      return TwoTimesSink<T>{bridge(args.t, row), bridge(args.t_to, row), at(x0, row), at(x_t, row),
                             at(u, row),          at(x_to, row)};
    };
    return x_to ? draws.for_each<true, false>(args.rows, begin, end, two_times, time, time_to)
                : draws.for_each<true, false>(args.rows, begin, end, pair, time);
  });
}

DK_NAMESPACE_END
