// CPU: K_t for the rows of t. A work unit is a chunk of a row; its words depend on their position alone.
#include "cpu_draws.h"
#include "cpu_ops.h"

DK_NAMESPACE_BEGIN

template <class Blocks, class T>
static void fill_chunk(const Blocks& blocks, T* out, const Chunk& chunk) {
  blocks.template for_each<false>(chunk.begin, chunk.end, [=](auto lanes, int64_t i, auto k, auto) DK_INLINE_LAMBDA {
    decltype(lanes)::store(out + i, k);
  });
}

bool kac_noise_cpu(const KacNoiseArgs& args, int64_t begin, int64_t end) {
  const PhiloxKey key = philox_key(uint64_t(args.seed.data ? *args.seed.data : args.seed.value));
  for (int64_t unit = begin; unit < end; ++unit) {
    const Chunk chunk = chunk_of(args.rows, kNoiseChunk, unit);
    const double t = row_scalar(args.t, chunk.row);
    if (!row_is_valid(t, args.a, args.c)) return false;
    const RowStream stream = row_stream(key, args.seed.row_offset + chunk.row);
    with_dtype(args.dtype, [&](auto element) {
      auto* out = static_cast<decltype(element)*>(args.out) + chunk.row * args.rows.width;
      with_blocks(args.process, t, args.a, args.c, stream, [&](const auto& blocks) { fill_chunk(blocks, out, chunk); });
    });
  }
  return true;
}

DK_NAMESPACE_END
