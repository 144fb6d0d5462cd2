// CPU: the training pair (x_0, t) -> (x_t, u) in one pass; displacement and velocity live in L1 for one block.
#include "kac_pair.h"

#include "cpu_draws.h"
#include "cpu_ops.h"

DK_NAMESPACE_BEGIN

template <class Blocks, class T>
static void pair_chunk(const Blocks& blocks, const BridgeRow& row, const T* x0, T* x_t, T* u, const Chunk& chunk) {
  blocks.template for_each<true>(chunk.begin, chunk.end, [=](auto lanes, int64_t i, auto k, auto v) DK_INLINE_LAMBDA {
    using V = decltype(lanes);
    const Bridge<V> bridge(row);
    const typename V::F data = V::load(x0 + i);
    V::store(x_t + i, bridge.x_t(data, k));
    V::store(u + i, bridge.u(data, v));
  });
}

bool kac_pair_cpu(const KacPairArgs& args, int64_t begin, int64_t end) {
  const PhiloxKey key = philox_key(uint64_t(args.seed.data ? *args.seed.data : args.seed.value));
  for (int64_t unit = begin; unit < end; ++unit) {
    const Chunk chunk = chunk_of(args.rows, kNoiseChunk, unit);
    const double t = row_scalar(args.t, chunk.row);
    const BridgeRow row = bridge_row(t, args.f, args.g, args.kappa);
    if (!(t >= 0) || !row_is_valid(row.g, args.a, args.c)) return false;
    const RowStream stream = row_stream(key, args.seed.row_offset + chunk.row);
    with_dtype(args.dtype, [&](auto element) {
      using T = decltype(element);
      const int64_t start = chunk.row * args.rows.width;
      const T* x0 = static_cast<const T*>(args.x0) + start;
      T *x_t = static_cast<T*>(args.x_t) + start, *u = static_cast<T*>(args.u) + start;
      with_blocks(args.process, row.g, args.a, args.c, stream,
                  [&](const auto& blocks) { pair_chunk(blocks, row, x0, x_t, u, chunk); });
    });
  }
  return true;
}

DK_NAMESPACE_END
