// CUDA: how rows are cut among blocks, and 16-byte accesses. A block of kThreads threads takes one work unit (a chunk
// of a row) after the other; a thread handles groups of four neighbouring elements.
#pragma once
#include <cuda_runtime.h>

#include "../lanes/lanes.h"
#include "chunks.h"

DK_NAMESPACE_BEGIN

constexpr int kThreads = 128;
constexpr int64_t kCudaChunk = 2048;   // elements of one unit: 16 a thread
constexpr int64_t kMaxBlocks = 8192;   // the rest by grid stride
constexpr int kStride = 4 * kThreads;  // from a thread's group to its next

constexpr int64_t kMostDrawn = 4 * kCudaChunk;  // elements of a unit of the draws at most
constexpr int64_t kManyUnits = 2048;            // enough that every multiprocessor has several, whatever the GPU

// Elements of a unit of the draws, whose set-up is dear: as long as enough units are left, larger ones.
inline int64_t draw_chunk(const Rows& rows) {
  int64_t chunk = kCudaChunk;
  while (chunk < kMostDrawn && units_in(rows, 2 * chunk) >= kManyUnits) chunk *= 2;
  return chunk;
}

inline unsigned blocks_for(int64_t units) { return unsigned(units < kMaxBlocks ? units : kMaxBlocks); }

template <class T>
struct alignas(4 * sizeof(T)) Group {
  T values[4];
};

// Not an assignment: the compiler moves p about in a loop, forgets its alignment, and makes four stores of it.
template <class T>
__device__ inline void store_words(T* p, const Group<T>& group) {
#if defined(__CUDA_ARCH__)
  const size_t address = __cvta_generic_to_global(p);
  uint32_t words[sizeof group / 4];
  memcpy(words, &group, sizeof group);
  if constexpr (sizeof group == 16)
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(words[0]), "r"(words[1]), "r"(words[2]),
                 "r"(words[3])
                 : "memory");
  else
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(address), "r"(words[0]), "r"(words[1]) : "memory");
#else
  *reinterpret_cast<Group<T>*>(p) = group;
#endif
}

// How a kernel reads and writes kCount elements, those from p on and, of a second group, from p + kStride on. Whole:
// groups of four, each in one access of 16 (or 8) bytes.
template <int kGroups>
struct Whole {
  static constexpr int kCount = 4 * kGroups;
  template <class T>
  __device__ void load(const T* p, float x[kCount]) const {
    DK_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      const Group<T> group = *reinterpret_cast<const Group<T>*>(p + g * kStride);
      DK_UNROLL
      for (int i = 0; i < 4; ++i) x[4 * g + i] = to_float(group.values[i]);
    }
  }
  template <class T>
  __device__ void store(T* p, const float x[kCount]) const {
    DK_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      Group<T> group;
      DK_UNROLL
      for (int i = 0; i < 4; ++i) group.values[i] = from_float<T>(x[4 * g + i]);
      store_words(p + g * kStride, group);
    }
  }
};

// One group, element by element, of which the first `count` exist; the others are read as 0.
struct Part {
  static constexpr int kCount = 4;
  int count;
  template <class T>
  __device__ void load(const T* p, float x[4]) const {
    DK_UNROLL
    for (int i = 0; i < 4; ++i) x[i] = i < count ? to_float(p[i]) : 0.f;
  }
  template <class T>
  __device__ void store(T* p, const float x[4]) const {
    DK_UNROLL
    for (int i = 0; i < 4; ++i)
      if (i < count) p[i] = from_float<T>(x[i]);
  }
};

// What a thread reads of memory for its four groups of a draw, asked for before it draws them and used after: memory
// answers after hundreds of clocks, and a read into registers the compiler moves towards its use. A copy into shared
// memory it does not, and that takes no registers; GPUs before sm_80 have none, and read. Each thread uses its own
// places alone, so no barrier is needed.
template <class T>
struct Ahead {
  Group<T> groups[4][kThreads];
  __device__ void ask(Whole<1>, int j, const T* p) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    const unsigned to = unsigned(__cvta_generic_to_shared(&groups[j][threadIdx.x]));
    const size_t from = __cvta_generic_to_global(p);
    if constexpr (sizeof(Group<T>) == 16)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
    else
      asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(from) : "memory");
#else
    groups[j][threadIdx.x] = *reinterpret_cast<const Group<T>*>(p);
#endif
  }
  __device__ void ask(Part, int, const T*) {}
  __device__ void get(Whole<1> access, int j, const T*, float x[4]) const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
    access.load(groups[j][threadIdx.x].values, x);
  }
  __device__ void get(Part access, int, const T* p, float x[4]) const { access.load(p, x); }
};

__device__ inline int length_of(const Chunk& chunk) { return int(chunk.end - chunk.begin); }

// Are the `length` elements from each p on whole groups that one access may take? Asked once a unit. Null is.
template <class... T>
__device__ inline bool in_whole_groups(int length, const T*... p) {
  return length % 4 == 0 && ((reinterpret_cast<uintptr_t>(p) % sizeof(Group<T>) == 0) && ...);
}

// f(access, i) for the groups of a thread, access.kCount elements at a time: i the first one's place in the chunk.
// Whole ones kGroups (1 or 2) together, so that all their reads are under way before the first is used.
template <int kGroups, class F>
__device__ inline void for_each_group(int length, bool whole, F&& f) {
  int i = 4 * int(threadIdx.x);
  if (whole) {
    for (; i + (kGroups - 1) * kStride < length; i += kGroups * kStride) f(Whole<kGroups>{}, i);
    if (kGroups == 2 && i < length) f(Whole<1>{}, i);
  } else {
    for (; i < length; i += kStride) f(Part{length - i}, i);
  }
}

DK_NAMESPACE_END
