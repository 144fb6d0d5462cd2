// CPU: K_t for the rows of t. A work unit is a chunk of a row; its words depend on their position alone.
#include "cpu_draws.h"
#include "cpu_ops.h"

DK_NAMESPACE_BEGIN

bool kac_noise_cpu(const KacNoiseArgs& args, int64_t begin, int64_t end) {
  return with_dtype(args.dtype, [&](auto element) {
    auto* out = static_cast<decltype(element)*>(args.out);
    return Draws(args.kac, args.seed)
        .for_each<false, true>(
            args.rows, begin, end, [&](int64_t row) { return row_scalar(args.t, row); },
            [&](int64_t row) {
              return [to = out + row * args.rows.width](auto lanes, int64_t i, auto k, auto)
                         DK_INLINE_LAMBDA { decltype(lanes)::store(to + i, k); };
            });
  });
}

DK_NAMESPACE_END
