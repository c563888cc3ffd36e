// Shared memory, poisoned and watched; and tensors in guarded memory.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <mutex>
#include <unordered_map>

#include "engine/engine.h"

namespace emulation {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kAlignment = 64;        // what PyTorch gives its tensors
constexpr unsigned char kPoison = 0xff;  // NaN, and an index that leads nowhere

// Memory is watched in units of the smallest number.
constexpr int kUnit = 2;

// The last accesses of a unit that another access may conflict with.
struct Unit {
  Moment writer, reader;
  bool several_readers = false;  // in the reader's barrier interval, in different warps or times
};

class Watch {
 public:
  void access(Unit& unit, bool writes, const char* memory) {
    const Moment& moment = now();
    if (unit.writer.thread >= 0 && !unit.writer.before(moment))
      race(writes, true, memory, unit.writer);
    if (!writes) {
      if (unit.reader.thread >= 0 && unit.reader.thread != moment.thread &&
          !unit.reader.before(moment)) {
        unit.several_readers = true;
      } else if (unit.reader.block != moment.block || unit.reader.barriers != moment.barriers) {
        unit.several_readers = false;
      }
      unit.reader = moment;
      return;
    }
    const bool same_interval =
        unit.reader.block == moment.block && unit.reader.barriers == moment.barriers;
    if (unit.reader.thread >= 0 &&
        (!unit.reader.before(moment) || (unit.several_readers && same_interval))) {
      race(writes, false, memory, unit.reader);
    }
    unit.writer = moment;
  }

 private:
  [[noreturn]] static void race(bool writes, bool written, const char* memory,
                                const Moment& other) {
    fail(c10::str("race in ", memory, " memory: a ", writes ? "write" : "read",
                  " without a barrier after the ", written ? "write" : "read", " of thread number ",
                  other.thread, " of block ", other.block));
  }
};

struct Shared {
  unsigned char* data = nullptr;  // ends where a page that must not be touched begins
  size_t capacity = 0, bytes = 0;
  std::vector<bool> written;
  std::vector<Unit> units;

  void start(size_t wanted) {
    const size_t pages = (wanted + kPage - 1) / kPage * kPage;
    if (pages > capacity) {
      capacity = pages;
      data = static_cast<unsigned char*>(mmap(nullptr, capacity + kPage, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      mprotect(data + capacity, kPage, PROT_NONE);
    }
    bytes = wanted;
    std::memset(begin(), kPoison, bytes);
    written.assign(bytes, false);
    units.assign((bytes + kUnit - 1) / kUnit, Unit());
  }
  unsigned char* begin() const { return data + (capacity - bytes) / 16 * 16; }
};

Shared shared;
Watch watch;

// Of this launch, by address in units.
std::unordered_map<uintptr_t, Unit> global_units;

struct Buffers {
  std::mutex mutex;
  std::map<uintptr_t, size_t> sizes;

  // The buffer that holds the address, or the last before it.
  std::pair<uintptr_t, size_t> at(uintptr_t address) {
    const std::lock_guard<std::mutex> lock(mutex);
    auto next = sizes.upper_bound(address);
    if (next == sizes.begin()) return {0, 0};
    --next;
    return *next;
  }
};
Buffers buffers;
bool guarding = false;

size_t round_up(size_t bytes, size_t by) { return (bytes + by - 1) / by * by; }

class GuardedAllocator final : public c10::Allocator {
 public:
  // Not const before PyTorch 2.3.
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &release, c10::kCPU};
    const size_t pages = round_up(round_up(bytes, kAlignment), kPage);
    auto* const first = static_cast<unsigned char*>(
        mmap(nullptr, pages + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    TORCH_CHECK(first != MAP_FAILED, "emulation: no memory for ", bytes, " bytes");
    mprotect(first + pages, kPage, PROT_NONE);
    unsigned char* const data = first + pages - round_up(bytes, kAlignment);
    std::memset(first, kPoison, pages);
    const std::lock_guard<std::mutex> lock(buffers.mutex);
    buffers.sizes[reinterpret_cast<uintptr_t>(data)] = bytes;
    return {data, data, &release, c10::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static void release(void* data) {
    if (data == nullptr) return;
    size_t bytes;
    {
      const std::lock_guard<std::mutex> lock(buffers.mutex);
      const auto found = buffers.sizes.find(reinterpret_cast<uintptr_t>(data));
      bytes = found->second;
      buffers.sizes.erase(found);
    }
    const size_t pages = round_up(round_up(bytes, kAlignment), kPage);
    auto* const first = static_cast<unsigned char*>(data) + round_up(bytes, kAlignment) - pages;
    munmap(first, pages + kPage);
  }
};

void check_alignment(const void* pointer, int bytes) {
  if (reinterpret_cast<uintptr_t>(pointer) % bytes != 0) {
    fail(c10::str("misaligned access of ", bytes, " bytes, at an address that is ",
                  reinterpret_cast<uintptr_t>(pointer) % bytes, " beyond a multiple of it"));
  }
}

void observe_shared(const unsigned char* pointer, int bytes, bool writes) {
  const ptrdiff_t at = pointer - shared.begin();
  if (at < 0 || at + bytes > static_cast<ptrdiff_t>(shared.bytes)) {
    fail(c10::str("shared memory out of bounds: ", writes ? "write" : "read", " of ", bytes,
                  " bytes at ", at, " of ", shared.bytes));
  }
  for (ptrdiff_t i = at; i < at + bytes; ++i) {
    if (writes) {
      shared.written[i] = true;
    } else if (!shared.written[i]) {
      fail(c10::str("read of uninitialised shared memory: ", bytes, " bytes at ", at));
    }
  }
  if (settings.counting) return;
  for (ptrdiff_t unit = at / kUnit; unit <= (at + bytes - 1) / kUnit; ++unit) {
    watch.access(shared.units[unit], writes, "shared");
  }
}

void observe_global(uintptr_t address, int bytes, Access access) {
  const bool writes = access != Access::kGlobalLoad;
  if (guarding) {
    const auto [start, size] = buffers.at(address);
    if (size == 0 || address + bytes > start + size) {
      fail(c10::str("global memory out of bounds: ", writes ? "write" : "read", " of ", bytes,
                    " bytes at ", address - start, " of a buffer of ", size, " bytes"));
    }
  }
  if (settings.counting || access == Access::kGlobalAtomic) return;
  for (uintptr_t unit = address / kUnit; unit <= (address + bytes - 1) / kUnit; ++unit) {
    watch.access(global_units[unit], writes, "global");
  }
}

void report_segmentation_fault(int) {
  const std::string& kernel = kernel_name();
  if (!kernel.empty()) {
    std::fprintf(stderr,
                 "emulation: access outside all memory; in %s, block (%u, %u, %u), thread "
                 "(%u, %u, %u)\n",
                 kernel.c_str(), block_index.x, block_index.y, block_index.z, thread_index.x,
                 thread_index.y, thread_index.z);
  }
  signal(SIGSEGV, SIG_DFL);
  raise(SIGSEGV);
}

}  // namespace

unsigned char* shared_memory() { return shared.begin(); }

void start_launch_memory() { global_units.clear(); }

void start_block_memory(size_t shared_bytes) { shared.start(shared_bytes); }

void observe_memory(Access access, const void* pointer, int bytes) {
  check_alignment(pointer, bytes);
  if (access == Access::kSharedLoad || access == Access::kSharedStore) {
    observe_shared(static_cast<const unsigned char*>(pointer), bytes,
                   access == Access::kSharedStore);
  } else {
    observe_global(reinterpret_cast<uintptr_t>(pointer), bytes, access);
  }
}

void guard_memory(bool on) {
  static GuardedAllocator guarded;
  static c10::Allocator* usual = nullptr;
  constexpr uint8_t priority = 100;
  if (on == guarding) return;
  if (on) {
    usual = c10::GetCPUAllocator();
    signal(SIGSEGV, report_segmentation_fault);
  }
  c10::SetCPUAllocator(on ? &guarded : usual, priority);
  guarding = on;
}

}  // namespace emulation
