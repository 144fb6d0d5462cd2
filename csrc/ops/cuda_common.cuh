// CUDA: how rows are cut among blocks, and 16-byte accesses. A block of kThreads threads takes one work unit (a chunk
// of a row) after the other; a thread handles groups of four neighbouring elements.
#pragma once
#include <cuda_runtime.h>

#include "../lanes/lanes.h"
#include "chunks.h"

DK_NAMESPACE_BEGIN

constexpr int kThreads = 128;
constexpr int64_t kCudaChunk = 2048;  // elements of one unit: 16 a thread
constexpr int64_t kMaxBlocks = 8192;  // the rest by grid stride

inline unsigned blocks_for(int64_t units) { return unsigned(units < kMaxBlocks ? units : kMaxBlocks); }

template <class T>
struct alignas(4 * sizeof(T)) Group {
  T values[4];
};

// Four elements from p on, of which `count` exist; one access of 16 (or 8) bytes where p allows it.
template <class T>
__device__ inline void load_group(const T* p, int64_t count, float x[4]) {
  if (count >= 4 && reinterpret_cast<uintptr_t>(p) % sizeof(Group<T>) == 0) {
    const Group<T> group = *reinterpret_cast<const Group<T>*>(p);
    for (int i = 0; i < 4; ++i) x[i] = to_float(group.values[i]);
  } else {
    for (int i = 0; i < 4; ++i) x[i] = i < count ? to_float(p[i]) : 0.f;
  }
}

template <class T>
__device__ inline void store_group(T* p, int64_t count, const float x[4]) {
  if (count >= 4 && reinterpret_cast<uintptr_t>(p) % sizeof(Group<T>) == 0) {
    Group<T> group;
    for (int i = 0; i < 4; ++i) group.values[i] = from_float<T>(x[i]);
    *reinterpret_cast<Group<T>*>(p) = group;
  } else {
    for (int i = 0; i < 4; ++i)
      if (i < count) p[i] = from_float<T>(x[i]);
  }
}

// f(i, count) for every group of four elements of a chunk: i its first element in the row, count how many exist.
template <class F>
__device__ inline void for_each_group(const Chunk& chunk, F&& f) {
  for (int64_t i = chunk.begin + 4 * int64_t(threadIdx.x); i < chunk.end; i += 4 * int64_t(blockDim.x))
    f(i, chunk.end - i);
}

DK_NAMESPACE_END
