// CPU: K_t for the rows of t. A work unit is a chunk of a row; its words depend on their position alone.
#include "cpu_draws.h"
#include "cpu_ops.h"

DK_NAMESPACE_BEGIN

// Takes the draws of one row.
template <class T>
struct NoiseSink {
  T* out;

  template <class V>
  DK_INLINE void operator()(V, int64_t i, typename V::F k, typename V::F) const {
    V::store(out + i, k);
  }
};

bool kac_noise_cpu(const KacNoiseArgs& args, int64_t begin, int64_t end) {
  const Draws draws(args.kac, args.seed);
  const auto time = [&](int64_t row) { return row_time(args.t, row); };
  return with_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    const auto sink = [&](int64_t row) { return NoiseSink<T>{static_cast<T*>(args.out) + row * args.rows.width}; };
    return draws.for_each<false, true>(args.rows, begin, end, sink, time);
  });
}

DK_NAMESPACE_END
