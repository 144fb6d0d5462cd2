// CPU: how the elements of a row are drawn, block by block of random words.
#pragma once
#include <type_traits>

#include "../lanes/loops.h"
#include "philox.h"

DK_NAMESPACE_BEGIN

// sink(lanes, i, k, v) for the elements [begin, end) of a row, begin a multiple of 64. draw(blocks, index, store) makes
// the 64 elements of one block, or the 128 of two, and calls store(place, k, v) for each vector of them.
template <class V, class Draw, class Sink>
DK_INLINE void for_each_block(int64_t begin, int64_t end, Draw&& draw, Sink&& sink) {
  using F = typename V::F;
  int64_t i = begin;
  const auto whole = [&](int place, F k, F v) DK_INLINE_LAMBDA { sink(V{}, i + place, k, v); };
  if (V::kWidth == 16)
    for (; i + 2 * kBlock <= end; i += 2 * kBlock) draw(std::integral_constant<int, 2>{}, i / kBlock, whole);
  for (; i + kBlock <= end; i += kBlock) draw(std::integral_constant<int, 1>{}, i / kBlock, whole);
  if (i == end) return;
  alignas(64) float k_of[kBlock], v_of[kBlock];
  draw(std::integral_constant<int, 1>{}, i / kBlock,
       [&](int place, F k, F v) DK_INLINE_LAMBDA { V::store(k_of + place, k), V::store(v_of + place, v); });
  for_each_vector<V>(0, end - i, [&](auto lanes, int64_t j) {
    using L = decltype(lanes);
    sink(lanes, i + j, L::load(k_of + j), L::load(v_of + j));
  });
}

DK_NAMESPACE_END
