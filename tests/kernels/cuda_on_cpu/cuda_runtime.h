// Stands in for CUDA's header of this name: runs the project's .cu files on the CPU, for tests. One block at a time,
// each thread a fiber that runs until its next barrier; blocks and warps meet at barriers as on the device. Covered:
// threadIdx & co, __shared__, __syncthreads, __shfl_down_sync, launches of any grid. Not covered: data races (fibers
// switch only at barriers), memory ordering, streams. A barrier that not every thread reaches aborts.
#pragma once
#define __CUDACC__ 1
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __shared__ static
#define __launch_bounds__(...)

using cudaStream_t = void*;
using cudaError_t = int;
inline int cudaGetLastError() { return 0; }
inline const char* cudaGetErrorString(cudaError_t) { return "emulated CUDA does not fail"; }
template <class T>
int cudaGetSymbolAddress(void** address, const T& symbol) {
  *address = const_cast<void*>(static_cast<const void*>(&symbol));
  return 0;
}

namespace emulation {

struct Index {
  unsigned x = 0;
};

enum Waiting { kRunning, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Index thread;
  Waiting waiting;
};

constexpr size_t kStack = 128 * 1024;
inline std::vector<Fiber> fibers;
inline Fiber* current;
inline ucontext_t scheduler;
inline Index block, block_size, grid_size;
inline std::function<void()> kernel;
inline uint64_t exchanged[1024];
inline int launches = 0;

inline void wait(Waiting at) {
  current->waiting = at;
  swapcontext(&current->context, &scheduler);
}

inline void entry() {
  kernel();
  wait(kDone);
}

// Opens the barrier `at` for fibers [begin, end) if every live one waits there.
inline bool open_barrier(size_t begin, size_t end, Waiting at) {
  bool any = false;
  for (size_t i = begin; i < end; ++i) {
    if (fibers[i].waiting == kDone) continue;
    if (fibers[i].waiting != at) return false;
    any = true;
  }
  for (size_t i = begin; any && i < end; ++i)
    if (fibers[i].waiting == at) fibers[i].waiting = kRunning;
  return any;
}

inline void run_block() {
  for (size_t i = 0; i < fibers.size(); ++i) {
    Fiber& fiber = fibers[i];
    if (!fiber.stack) fiber.stack.reset(new char[kStack]);
    fiber.thread.x = unsigned(i);
    fiber.waiting = kRunning;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
  }
  for (;;) {
    bool progress = false, alive = false;
    for (Fiber& fiber : fibers) {
      if (fiber.waiting != kRunning) continue;
      current = &fiber;
      swapcontext(&scheduler, &fiber.context);
      progress = true;
    }
    for (size_t first = 0; first < fibers.size(); first += 32)
      progress |= open_barrier(first, std::min(first + 32, fibers.size()), kAtWarpBarrier);
    progress |= open_barrier(0, fibers.size(), kAtBlockBarrier);
    for (Fiber& fiber : fibers) alive |= fiber.waiting != kDone;
    if (!alive) return;
    if (!progress) {
      std::fprintf(stderr, "emulated CUDA: threads of one block wait at different barriers\n");
      std::abort();
    }
  }
}

template <class F>
void launch(unsigned blocks, unsigned threads, size_t, cudaStream_t, F&& body) {
  if (blocks == 0 || threads == 0 || threads > 1024) {
    std::fprintf(stderr, "emulated CUDA: bad launch of %u blocks of %u threads\n", blocks, threads);
    std::abort();
  }
  ++launches;
  if (fibers.size() != threads) {
    fibers.clear();
    fibers.resize(threads);
  }
  grid_size.x = blocks, block_size.x = threads, kernel = body;
  for (block.x = 0; block.x < blocks; ++block.x) run_block();
}

inline unsigned thread_number() { return current->thread.x; }

}  // namespace emulation

#define threadIdx (emulation::current->thread)
#define blockIdx (emulation::block)
#define blockDim (emulation::block_size)
#define gridDim (emulation::grid_size)

inline void __syncthreads() { emulation::wait(emulation::kAtBlockBarrier); }

template <class T>
T __shfl_down_sync(unsigned mask, T value, int distance) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "one register at a time");
  if (mask != 0xffffffffu) std::abort();  // only whole warps are emulated
  const unsigned thread = emulation::thread_number(), source = thread + unsigned(distance);
  std::memcpy(&emulation::exchanged[thread], &value, sizeof value);
  emulation::wait(emulation::kAtWarpBarrier);
  T result = value;
  if (source / 32 == thread / 32) std::memcpy(&result, &emulation::exchanged[source], sizeof result);
  emulation::wait(emulation::kAtWarpBarrier);
  return result;
}
