// What kernels see of the emulator. One fibre runs each thread of a block; a seeded schedule
// chooses which goes on. Everything here is called from within a kernel, but for launches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

namespace emulation {

enum class Access { kGlobalLoad, kGlobalStore, kGlobalAtomic, kSharedLoad, kSharedStore };

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

struct Extent {
  unsigned x, y, z;

  constexpr Extent(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr uint64_t count() const { return uint64_t{x} * y * z; }
};

// Of the thread that runs.
extern Index thread_index, block_index;
extern Extent block_extent, grid_extent;

// Checks an access, which kernels announce before they make it, and may let other threads go first.
void observe(Access access, const void* pointer, int bytes);

// The block's shared memory.
unsigned char* shared_memory();

void synchronize_block(const char* file, int line);
void synchronize_warp(uint32_t lanes);

// Waits for `lanes` of the warp and returns what `from`, one of them, gave.
uint64_t exchange(uint32_t lanes, uint64_t value, int from);

// Bit i: whether lane i of `lanes` gave true.
uint32_t vote(uint32_t lanes, bool value);

int lane();

// Copies to shared memory land when the thread waits for them.
void copy_async(void* shared, const void* global, int bytes);
void wait_copies();

// D += A.B of mma.sync.aligned.m16n8k16.row.col.f32 by the whole warp, T being c10::Half or
// c10::BFloat16, on the fragments that the instruction is documented to have.
template <typename T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

// A launch, complete when this returns. Throws c10::Error for whatever a thread did wrong.
void launch(const void* kernel, Extent grid, Extent block, size_t shared_bytes,
            const std::function<void()>& thread);

void allow_shared_bytes(const void* kernel, int bytes);

// Of the device that is emulated.
struct Device {
  int processors = 4;
  int shared_bytes = 99 * 1024;
  int capability = 86;
  int cache_bytes = 4 << 20;
};
extern Device device;

template <typename T>
T shuffle(uint32_t lanes, T value, int from) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(lanes, bits, from);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulation
