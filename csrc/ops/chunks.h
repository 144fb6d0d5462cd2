// CPU: how an op's rows are cut into work units, and how a loop runs over the elements of one.
#pragma once
#include <type_traits>

#include "../random/philox.h"
#include "../lanes/lanes.h"

DK_NAMESPACE_BEGIN

struct Chunk {
  int64_t row, begin, end;  // elements [begin, end) of the row
};

DK_INLINE Chunk chunk_of(const Rows& rows, int64_t chunk_size, int64_t unit) {
  const int64_t per_row = chunks_per_row(rows.width, chunk_size), begin = unit % per_row * chunk_size;
  return {unit / per_row, begin, begin + chunk_size < rows.width ? begin + chunk_size : rows.width};
}

// element(lanes, i) for whole vectors first, then for what is left, one float at a time: the same element code.
template <class V, class F>
DK_INLINE void for_each_vector(int64_t begin, int64_t end, F&& element) {
  int64_t i = begin;
  for (; i + V::kWidth <= end; i += V::kWidth) element(V{}, i);
  for (; i < end; ++i) element(Scalar{}, i);
}

// The same for neighbouring pairs: element(lanes, i) handles the elements [i, i + 2 * width).
template <class V, class F>
DK_INLINE void for_each_pair_vector(int64_t begin, int64_t end, F&& element) {
  int64_t i = begin;
  for (; i + 2 * V::kWidth <= end; i += 2 * V::kWidth) element(V{}, i);
  for (; i < end; i += 2) element(Scalar{}, i);
}

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

template <class V, class T>
DK_INLINE void load_pairs(const T* p, typename V::F& x, typename V::F& y) {
  V::deinterleave(V::load(p), V::load(p + V::kWidth), x, y);
}

template <class V, class T>
DK_INLINE void store_pairs(T* p, typename V::F x, typename V::F y) {
  typename V::F first, second;
  V::interleave(x, y, first, second);
  V::store(p, first);
  V::store(p + V::kWidth, second);
}

DK_NAMESPACE_END
