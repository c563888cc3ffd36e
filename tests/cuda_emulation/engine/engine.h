// What the parts of the emulator know of each other.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "emulation.h"

namespace emulation {

constexpr int kWarp = 32;
constexpr int kMostThreads = 1024;  // of a block

struct Settings {
  uint64_t seed = 0;
  bool counting = false;  // in issue order, and without looking for races
  bool watching = true;   // for races
  uint64_t l2_bytes = 4 << 20;
};
extern Settings settings;

// How far a thread has come, for telling which accesses are ordered.
struct Moment {
  int block = -1, thread = -1;
  uint32_t barriers = 0;  // of the block that it has passed
  uint32_t meetings = 0;  // with lanes of its warp
};

// Of the thread that runs.
const Moment& now();
int thread_number();

// Whether what happened then comes before what happens now in any schedule.
bool comes_before_now(const Moment& then);

// As synchronize_warp, but as a part of another instruction.
void meet_lanes(uint32_t lanes);

// Throws c10::Error: what went wrong, in which kernel, block and thread, at which line.
[[noreturn]] void fail(const std::string& what);

// The kernel that runs, readable; empty when none does.
const std::string& kernel_name();

// The line of kernel code that called, and how functions are called in messages.
std::string call_site();
std::string name_of(const void* function);

// memory.cpp
void start_launch_memory();
void start_block_memory(size_t shared_bytes);
void observe_memory(Access access, const void* pointer, int bytes);
// Shared memory is neither to be read nor to be written between the two.
void start_copy(void* shared, const void* global, int bytes);
void finish_copy(void* shared, const void* global, int bytes);
// Takes tensors from guarded memory, whose borders are watched, or no longer.
void guard_memory(bool on);

// counters.cpp
struct Counters {
  int64_t launches = 0, blocks = 0, threads = 0;
  int64_t global_loads = 0, global_stores = 0, global_atomics = 0;  // instructions of warps
  int64_t sectors_loaded = 0, sectors_stored = 0;  // 32 bytes, as instructions ask for them
  int64_t l2_loads = 0, l2_stores = 0;             // those that a block has not asked for before
  int64_t dram_loads = 0, dram_stores = 0;         // those that are not in L2 either
  int64_t shared_loads = 0, shared_stores = 0;     // instructions of warps
  int64_t shared_wavefronts = 0;  // that these take, one each if there are no bank conflicts
  int64_t barriers = 0, exchanges = 0, mmas = 0;  // of blocks, of warps, of warps
};
Counters& counters();
std::map<std::string, Counters>& all_counters();
void reset_counters();
void count_access(Access access, const void* pointer, int bytes, const void* site);
void flush_warps();  // at barriers and at the end of a block
void start_launch_counters();
void finish_block_counters();
void finish_launch_counters();

}  // namespace emulation
