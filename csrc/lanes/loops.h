// CPU: how a loop runs over neighbouring elements, vector by vector.
#pragma once
#include "lanes.h"

DK_NAMESPACE_BEGIN

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
