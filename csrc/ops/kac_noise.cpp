// CPU: K_t for the rows of t. A work unit is a chunk of a row; its words depend on their position alone.
#include "../planar/blocks.h"
#include "../telegraph/blocks.h"
#include "cpu_ops.h"

DK_NAMESPACE_BEGIN

template <class Blocks, class T>
static void fill_chunk(const Blocks& blocks, T* out, const Chunk& chunk) {
  alignas(64) float k[kBlock];
  for (int64_t i = chunk.begin; i < chunk.end; i += kBlock) {
    const int64_t count = chunk.end - i < kBlock ? chunk.end - i : kBlock;
    if constexpr (sizeof(T) == sizeof(float)) {
      if (count == kBlock) {
        blocks.template block<false>(i / kBlock, out + i, nullptr);
        continue;
      }
    }
    blocks.template block<false>(i / kBlock, k, nullptr);
    for_each_vector<Lanes>(0, count, [&](auto lanes, int64_t j) {
      using V = decltype(lanes);
      V::store(out + i + j, V::load(k + j));
    });
  }
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
      if (args.process == Process::kTelegraph)
        fill_chunk(TelegraphBlocks<Lanes>(t, args.a, args.c, stream), out, chunk);
      else
        fill_chunk(PlanarBlocks<Lanes>(t, args.a, args.c, stream), out, chunk);
    });
  }
  return true;
}

DK_NAMESPACE_END
