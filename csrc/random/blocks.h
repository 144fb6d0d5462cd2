// CPU: how the elements of a row are drawn, block by block of random words.
#pragma once
#include <type_traits>
#include <utility>

#include "../lanes/loops.h"
#include "philox.h"

DK_NAMESPACE_BEGIN

// f(lane) for the first lane of every vector of a block's calls. Sixteen copies, one a lane, would compile for minutes.
template <class V, class F>
DK_INLINE void for_each_lane(F&& f) {
  if constexpr (V::kWidth == 1) {
    for (int lane = 0; lane < kCallsPerBlock; ++lane) f(lane);
  } else {
    DK_UNROLL
    for (int lane = 0; lane < kCallsPerBlock; lane += V::kWidth) f(lane);
  }
}

// sink(lanes, i, values...) for the elements [begin, end) of a row, begin a multiple of 64: kValues values of each.
// draw( blocks, index, store) makes the 64 elements of one block, or the 128 of two, and calls store(place, values...)
// for each vector of them.
template <class V, int kValues, class Draw, class Sink>
DK_INLINE void for_each_block(int64_t begin, int64_t end, Draw&& draw, Sink&& sink) {
  int64_t i = begin;
  const auto whole = [&](int place, auto... values) DK_INLINE_LAMBDA { sink(V{}, i + place, values...); };
  if (V::kWidth == 16)
    for (; i + 2 * kBlock <= end; i += 2 * kBlock) draw(std::integral_constant<int, 2>{}, i / kBlock, whole);
  for (; i + kBlock <= end; i += kBlock) draw(std::integral_constant<int, 1>{}, i / kBlock, whole);
  if (i == end) return;
  alignas(64) float drawn[kValues][kBlock];
  draw(std::integral_constant<int, 1>{}, i / kBlock, [&](int place, auto... values) DK_INLINE_LAMBDA {
    float(*to)[kBlock] = drawn;
    (V::store(*to++ + place, values), ...);
  });
  for_each_vector<V>(0, end - i, [&](auto lanes, int64_t j) {
    using L = decltype(lanes);
    [&]<int... n>(std::integer_sequence<int, n...>) {
      sink(lanes, i + j, L::load(drawn[n] + j)...);
    }(std::make_integer_sequence<int, kValues>{});
  });
}

DK_NAMESPACE_END
