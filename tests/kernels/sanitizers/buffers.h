// Arrays of exactly so many bytes, at addresses that no vector is aligned to, behind bytes that must not be read.
#pragma once
#include <cstring>
#include <memory>

#include "kernels.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size)
#define ASAN_UNPOISON_MEMORY_REGION(address, size)
#endif

using namespace distillkac;

namespace {

constexpr Dtype kDtypes[] = {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat16};
size_t bytes_of(Dtype dtype) { return dtype == Dtype::kFloat32 ? 4 : 2; }

// `size` bytes at an address that is aligned to one element only.
class Buffer {
 public:
  explicit Buffer(size_t size, size_t lead = 4) : size_(size), lead_(lead), memory_(new char[lead + size]) {
    std::memset(memory_.get(), 0xff, lead + size);  // NaN in every dtype
    ASAN_POISON_MEMORY_REGION(memory_.get(), lead);
  }
  Buffer(Buffer&&) = default;
  ~Buffer() {
    if (memory_) ASAN_UNPOISON_MEMORY_REGION(memory_.get(), lead_);
  }
  char* data() { return memory_.get() + lead_; }
  // FNV-1a over the bytes, one after the other of all buffers.
  void add_to(uint64_t& digest) {
    for (size_t i = 0; i < size_; ++i) digest = (digest ^ uint8_t(data()[i])) * 1099511628211u;
  }
  bool equals(Buffer& other) { return size_ == other.size_ && std::memcmp(data(), other.data(), size_) == 0; }

 private:
  size_t size_, lead_;
  std::unique_ptr<char[]> memory_;
};

// Numbers in (-.5, .5), rounded towards zero to the dtype; the mantissas of such, in float16.
Buffer numbers(int64_t count, Dtype dtype, uint32_t seed) {
  Buffer buffer(size_t(count) * bytes_of(dtype), bytes_of(dtype));
  for (int64_t i = 0; i < count; ++i) {
    const float value = float((uint32_t(i) * 2654435761u + seed) >> 8) * 0x1p-24f - 0.5f;
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (dtype == Dtype::kFloat32) {
      std::memcpy(buffer.data() + 4 * i, &bits, 4);
      continue;
    }
    uint16_t half = uint16_t(bits >> 16);
    if (dtype == Dtype::kFloat16) half = uint16_t((bits >> 16 & 0x8000u) | 0x3400u | (bits >> 13 & 0x3ffu));
    std::memcpy(buffer.data() + 2 * i, &half, 2);
  }
  return buffer;
}

}  // namespace
