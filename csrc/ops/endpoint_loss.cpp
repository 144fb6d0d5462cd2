// CPU: loss and gradient in one pass. Each chunk of 2048 elements adds its squares in 64 fixed float32 places and those
// in order in double, so the result does not depend on the threads or on the vector width.
#include "endpoint_loss.h"

#include "cpu_ops.h"

DK_NAMESPACE_BEGIN

constexpr int kPlaces = 64;

template <class T>
static double loss_chunk(const EndpointLossArgs& args, const LossRow& row, const Chunk& chunk) {
  const int64_t start = chunk.row * args.rows.width;
  const T *x = static_cast<const T*>(args.x) + start, *u = static_cast<const T*>(args.u) + start;
  const T* x_end = static_cast<const T*>(args.x_end) + start;
  float* grad_u = args.grad_u + start;
  alignas(64) float places[kPlaces] = {};

  const auto add = [&](auto lanes, int64_t i, float* place) {
    using V = decltype(lanes);
    const typename V::F r = residual<V>(V::load(x + i), V::load(u + i), V::load(x_end + i), row);
    V::store(grad_u + i, V::splat(row.grad_scale) * r);
    V::store(place, V::fma(r, r, V::load(place)));
  };
  int64_t i = chunk.begin;
  for (; i + kPlaces <= chunk.end; i += kPlaces) {
    DK_UNROLL
    for (int place = 0; place < kPlaces; place += Lanes::kWidth) add(Lanes{}, i + place, places + place);
  }
  for (int place = 0; i < chunk.end; ++i, ++place) add(Scalar{}, i, places + place);

  double sum = 0;
  for (float place : places) sum += place;
  return sum * row.loss_scale;
}

bool endpoint_loss_cpu(const EndpointLossArgs& args, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const Chunk chunk = chunk_of(args.rows, kLossChunk, unit);
    const LossRow row = loss_row(args, chunk.row);
    if (!row.is_finite()) return false;
    with_dtype(args.dtype,
               [&](auto element) { args.partial_sums[unit] = loss_chunk<decltype(element)>(args, row, chunk); });
  }
  return true;
}

DK_NAMESPACE_END
