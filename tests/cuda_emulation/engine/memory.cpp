// Shared memory, poisoned and watched; and tensors in guarded memory.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <map>
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

// The accesses of a unit that another may conflict with: the last write, and either reads or atomic
// additions since then. Of these, two that are far apart, in different blocks or else in different
// warps, speak for all: what is ordered after both is ordered after the others.
struct Unit {
  Moment write, others[2];
  Access others_are = Access::kGlobalLoad;
};

class Watch {
 public:
  Watch(Access access, const char* memory) : access_(access), memory_(memory) {}

  void visit(Unit& unit) const {
    const bool writes = access_ == Access::kGlobalStore || access_ == Access::kSharedStore;
    check(unit.write, Access::kGlobalStore);
    if (writes || access_ != unit.others_are) {
      for (Moment& other : unit.others) {
        check(other, unit.others_are);
        other = Moment();
      }
    }
    if (writes) {
      unit.write = now();
    } else {
      unit.others_are = access_;
      add(unit.others);
    }
  }

 private:
  static int distance(const Moment& one, const Moment& other) {
    if (one.block != other.block) return 2;
    return one.thread / kWarp != other.thread / kWarp ? 1 : 0;
  }

  static void add(Moment (&others)[2]) {
    for (Moment& other : others) {
      if (!comes_before_now(other)) continue;
      other = now();
      // Both may have come before.
      if (&other == others && comes_before_now(others[1])) others[1] = Moment();
      return;
    }
    const int apart = distance(others[0], others[1]);
    const int from_first = distance(others[0], now()), from_second = distance(others[1], now());
    if (std::max(from_first, from_second) > apart) others[from_first >= from_second] = now();
  }

  void check(const Moment& other, Access was) const {
    if (comes_before_now(other)) return;
    fail(c10::str("race in ", memory_, " memory: ", name(access_), ", not ordered after ",
                  name(was), " by thread number ", other.thread, " of block number ", other.block));
  }

  static const char* name(Access access) {
    if (access == Access::kGlobalAtomic) return "an atomic addition";
    return access == Access::kGlobalLoad || access == Access::kSharedLoad ? "a read" : "a write";
  }

  Access access_;
  const char* memory_;
};

enum class Content : unsigned char { kNone, kOnItsWay, kWritten };

struct Shared {
  unsigned char* data = nullptr;  // ends where a page that must not be touched begins
  size_t capacity = 0, bytes = 0;
  std::vector<Content> contents;
  std::vector<Unit> units;

  void start(size_t wanted) {
    const size_t pages = (wanted + kPage - 1) / kPage * kPage;
    if (pages > capacity) {
      if (data != nullptr) munmap(data, capacity + kPage);
      capacity = pages;
      data = static_cast<unsigned char*>(mmap(nullptr, capacity + kPage, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      mprotect(data + capacity, kPage, PROT_NONE);
    }
    bytes = wanted;
    std::memset(begin(), kPoison, bytes);
    contents.assign(bytes, Content::kNone);
    units.assign((bytes + kUnit - 1) / kUnit, Unit());
  }
  unsigned char* begin() const { return data + (capacity - bytes) / 16 * 16; }
};

Shared shared;

// Of this launch, page by page.
class GlobalUnits {
 public:
  Unit& at(uintptr_t address) {
    if (last_ == nullptr || address / kPage != last_page_) {
      last_page_ = address / kPage;
      auto& units = pages_[last_page_];
      units.resize(kPage / kUnit);
      last_ = units.data();
    }
    return last_[address % kPage / kUnit];
  }
  void clear() {
    pages_.clear();
    last_ = nullptr;
  }

 private:
  std::unordered_map<uintptr_t, std::vector<Unit>> pages_;
  uintptr_t last_page_ = 0;
  Unit* last_ = nullptr;
};
GlobalUnits global_units;

struct Buffers {
  std::mutex mutex;
  std::map<uintptr_t, size_t> sizes;

  // The buffer that holds the address, or else the nearest.
  std::pair<uintptr_t, size_t> at(uintptr_t address) {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto next = sizes.upper_bound(address);
    if (sizes.empty()) return {address, 0};
    if (next == sizes.begin()) return *next;
    const auto last = std::prev(next);
    const uintptr_t end = last->first + last->second;
    const bool nearer =
        next != sizes.end() && address >= end && next->first - address < address - end;
    return nearer ? *next : *last;
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

// Sizes are powers of two.
void check_alignment(const void* pointer, int bytes) {
  const uintptr_t beyond =
      reinterpret_cast<uintptr_t>(pointer) & (static_cast<uintptr_t>(bytes) - 1);
  if (beyond != 0) {
    fail(c10::str("misaligned access of ", bytes, " bytes, at an address that is ", beyond,
                  " beyond a multiple of it"));
  }
}

void observe_shared(const unsigned char* pointer, int bytes, bool writes) {
  const ptrdiff_t at = pointer - shared.begin();
  if (at < 0 || at + bytes > static_cast<ptrdiff_t>(shared.bytes)) {
    fail(c10::str("shared memory out of bounds: ", writes ? "write" : "read", " of ", bytes,
                  " bytes at ", at, " of ", shared.bytes));
  }
  for (ptrdiff_t i = at; i < at + bytes; ++i) {
    Content& content = shared.contents[i];
    if (content == Content::kOnItsWay) {
      fail(c10::str(writes ? "write" : "read",
                    " of shared memory before an asynchronous copy to it ", "has landed: ", bytes,
                    " bytes at ", at));
    }
    if (writes) {
      content = Content::kWritten;
    } else if (content == Content::kNone) {
      fail(c10::str("read of uninitialised shared memory: ", bytes, " bytes at ", at));
    }
  }
  if (settings.counting || !settings.watching) return;
  const Watch watch(writes ? Access::kSharedStore : Access::kSharedLoad, "shared");
  for (ptrdiff_t unit = at / kUnit; unit <= (at + bytes - 1) / kUnit; ++unit) {
    watch.visit(shared.units[unit]);
  }
}

void observe_global(uintptr_t address, int bytes, Access access) {
  if (guarding) {
    const auto [start, size] = buffers.at(address);
    if (address < start || address + bytes > start + size) {
      fail(c10::str(
          "global memory out of bounds: ", access == Access::kGlobalLoad ? "read" : "write", " of ",
          bytes, " bytes at ", static_cast<ptrdiff_t>(address - start), " of the nearest tensor's ",
          size, " bytes"));
    }
  }
  if (settings.counting || !settings.watching) return;
  const Watch watch(access, "global");
  for (uintptr_t at = address / kUnit * kUnit; at < address + bytes; at += kUnit) {
    watch.visit(global_units.at(at));
  }
}

struct sigaction usual_reaction;

// Then the access is made again, for whoever would have been told of it.
void report_segmentation_fault(int) {
  sigaction(SIGSEGV, &usual_reaction, nullptr);
  const std::string& kernel = kernel_name();
  if (kernel.empty()) return;
  std::fprintf(stderr,
               "emulation: access outside all memory; in %s, block (%u, %u, %u), thread "
               "(%u, %u, %u), %s\n",
               kernel.c_str(), block_index.x, block_index.y, block_index.z, thread_index.x,
               thread_index.y, thread_index.z, call_site().c_str());
}

// On a stack of its own, as a fibre's may be what has overflowed.
void catch_segmentation_faults() {
  static unsigned char stack[256 << 10];
  const stack_t alternative{stack, 0, sizeof(stack)};
  sigaltstack(&alternative, nullptr);
  struct sigaction reaction{};
  reaction.sa_handler = report_segmentation_fault;
  reaction.sa_flags = SA_ONSTACK;
  sigaction(SIGSEGV, &reaction, &usual_reaction);
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

void start_copy(void* shared_data, const void* global, int bytes) {
  observe_memory(Access::kGlobalLoad, global, bytes);
  observe_memory(Access::kSharedStore, shared_data, bytes);
  const ptrdiff_t at = static_cast<unsigned char*>(shared_data) - shared.begin();
  std::fill_n(shared.contents.begin() + at, bytes, Content::kOnItsWay);
}

void finish_copy(void* shared_data, const void* global, int bytes) {
  const ptrdiff_t at = static_cast<unsigned char*>(shared_data) - shared.begin();
  std::fill_n(shared.contents.begin() + at, bytes, Content::kWritten);
  observe_memory(Access::kGlobalLoad, global, bytes);
  observe_memory(Access::kSharedStore, shared_data, bytes);
}

void guard_memory(bool on) {
  static GuardedAllocator guarded;
  static c10::Allocator* usual = nullptr;
  constexpr uint8_t priority = 100;
  if (on == guarding) return;
  if (on) {
    usual = c10::GetCPUAllocator();
    catch_segmentation_faults();
  } else {
    sigaction(SIGSEGV, &usual_reaction, nullptr);
  }
  c10::SetCPUAllocator(on ? &guarded : usual, priority);
  guarding = on;
}

}  // namespace emulation
