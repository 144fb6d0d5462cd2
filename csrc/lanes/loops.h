// CPU: how a loop runs over neighbouring elements, vector by vector.
#pragma once
#include "lanes.h"

DK_NAMESPACE_BEGIN

// element(lanes, i) of one float for what whole vectors leave. The empty statement keeps the compiler from making
// vectors of it once more: half of the code and of the time to compile it, for a few elements.
template <class F>
DK_INLINE void for_each_scalar(int64_t begin, int64_t end, int64_t step, F&& element) {
  for (int64_t i = begin; i < end; i += step) {
    asm volatile("");
    element(Scalar{}, i);
  }
}

// element(lanes, i) for whole vectors first, then for what is left, one float at a time: the same element code.
template <class V, class F>
DK_INLINE void for_each_vector(int64_t begin, int64_t end, F&& element) {
  int64_t i = begin;
  for (; i + V::kWidth <= end; i += V::kWidth) element(V{}, i);
  for (; i < end; ++i) element(Scalar{}, i);
}

// The same for groups of n (1, 2 or 4) neighbours: element(lanes, i) handles the elements [i, i + n * width).
template <class V, int n, class F>
DK_INLINE void for_each_group_vector(int64_t begin, int64_t end, F&& element) {
  int64_t i = begin;
  for (; i + n * V::kWidth <= end; i += n * V::kWidth) element(V{}, i);
  if constexpr (V::kWidth > 1) for_each_scalar(i, end, n, element);
}

// x[0], ..., x[3] hold the first, ..., the fourth of each four neighbours, y their vectors as they lie in memory.
template <class V>
DK_INLINE void interleave_fours(const typename V::F x[4], typename V::F y[4]) {
  typename V::F even[2], odd[2];
  V::interleave(x[0], x[2], even[0], even[1]);
  V::interleave(x[1], x[3], odd[0], odd[1]);
  V::interleave(even[0], odd[0], y[0], y[1]);
  V::interleave(even[1], odd[1], y[2], y[3]);
}

template <class V, int n, class T>
DK_INLINE void load_groups(const T* p, typename V::F x[n]) {
  typename V::F y[n];
  DK_UNROLL
  for (int i = 0; i < n; ++i) y[i] = V::load(p + i * V::kWidth);
  if constexpr (n == 1) x[0] = y[0];
  if constexpr (n == 2) V::deinterleave(y[0], y[1], x[0], x[1]);
  if constexpr (n == 4) {
    typename V::F even[2], odd[2];
    V::deinterleave(y[0], y[1], even[0], odd[0]);
    V::deinterleave(y[2], y[3], even[1], odd[1]);
    V::deinterleave(even[0], even[1], x[0], x[2]);
    V::deinterleave(odd[0], odd[1], x[1], x[3]);
  }
}

template <class V, int n, class T>
DK_INLINE void store_groups(T* p, const typename V::F x[n]) {
  typename V::F y[n];
  if constexpr (n == 1) y[0] = x[0];
  if constexpr (n == 2) V::interleave(x[0], x[1], y[0], y[1]);
  if constexpr (n == 4) interleave_fours<V>(x, y);
  DK_UNROLL
  for (int i = 0; i < n; ++i) V::store(p + i * V::kWidth, y[i]);
}

DK_NAMESPACE_END
