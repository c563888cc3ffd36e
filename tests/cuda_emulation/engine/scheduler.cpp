// One fibre for each thread of a block, block after block, in an order that a seed decides.
#include <c10/util/Exception.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <exception>
#include <random>
#include <string_view>
#include <utility>

#include "engine/engine.h"
#include "engine/fibre_tsan.h"

namespace emulation {

Index thread_index, block_index;
Extent block_extent, grid_extent;
Device device;
Settings settings;

namespace {

constexpr size_t kStackBytes = 512 << 10;
constexpr size_t kStackGuard = 64 << 10;  // below a stack, not to be touched
// Of the accesses after which another thread may go on; most interleave at barriers anyway.
constexpr int kPreemptOneIn = 24;

enum class State { kReady, kAtBarrier, kInWarp, kDone };

unsigned char* make_stack() {
  void* const memory = mmap(nullptr, kStackGuard + kStackBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  TORCH_CHECK(memory != MAP_FAILED, "emulation: no memory for a stack");
  mprotect(memory, kStackGuard, PROT_NONE);
  return static_cast<unsigned char*>(memory) + kStackGuard;
}

// Kept for the next blocks and launches.
struct Fibre {
  ucontext_t context{};
  unsigned char* stack = make_stack();
  SanitizedFibre sanitized;
  State state = State::kReady;
  Index index;
  Moment moment;
  std::array<uint32_t, kWarp> seen;          // meetings of the warp's lanes that come before now
  std::pair<std::string_view, int> barrier;  // that it waits at: file and line
};

// Some lanes of a warp meet here; what they gave is kept for the slowest until they have met twice
// more.
struct Meeting {
  uint64_t values[2][kWarp];
  uint32_t arrived = 0;
  int number = 0;
  SanitizedOrder order[2];
};
using Warp = std::map<uint32_t, Meeting>;  // by lanes

struct Copy {
  void* shared;
  const void* global;
  int bytes;
};

struct Launch {
  const std::function<void()>* thread = nullptr;
  std::string kernel;
  std::vector<Warp> warps;
  std::vector<std::vector<Copy>> copies;
  std::vector<int> ready;
  int done = 0;
  int64_t block = 0;
  std::mt19937_64 random;
  std::string complaint;  // about the thread that goes on next, which then fails
  std::exception_ptr error;
  SanitizedOrder barrier[2], whole;
};

ucontext_t scheduler_context;
SanitizedFibre scheduler_fibre;
std::vector<Fibre> fibres;
Launch* running = nullptr;
int current = -1;
std::map<const void*, int> allowed_shared_bytes;

Fibre& me() { return fibres[current]; }

void to_scheduler() {
  scheduler_fibre.enter();
  swapcontext(&me().context, &scheduler_context);
  if (!running->complaint.empty()) fail(running->complaint);
}

void run_thread() {
  try {
    (*running->thread)();
  } catch (...) {
    running->error = std::current_exception();
  }
  me().state = State::kDone;
  running->whole.release();
  to_scheduler();
}

void resume(int thread) {
  current = thread;
  thread_index = me().index;
  me().sanitized.enter();
  swapcontext(&scheduler_context, &me().context);
  current = -1;
}

void prepare_fibres() {
  const int threads = static_cast<int>(block_extent.count());
  while (static_cast<int>(fibres.size()) < threads) fibres.emplace_back();
  running->ready.clear();
  for (int i = 0; i < threads; ++i) {
    Fibre& fibre = fibres[i];
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack;
    fibre.context.uc_stack.ss_size = kStackBytes;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, run_thread, 0);
    fibre.sanitized.create();
    fibre.state = State::kReady;
    fibre.index = {i % block_extent.x, i / block_extent.x % block_extent.y,
                   i / block_extent.x / block_extent.y};
    fibre.moment = {static_cast<int>(running->block), i, 0, 0};
    fibre.seen.fill(0);
    running->ready.push_back(i);
  }
  running->done = 0;
  running->warps.assign((threads + kWarp - 1) / kWarp, Warp());
  running->copies.assign(threads, {});
}

void make_ready(int thread) {
  fibres[thread].state = State::kReady;
  running->ready.push_back(thread);
}

std::string describe(int thread) {
  const Index& index = fibres[thread].index;
  return c10::str("thread (", index.x, ", ", index.y, ", ", index.z, ")");
}

std::string bits(uint32_t lanes) {
  std::array<char, 16> text;
  std::snprintf(text.data(), text.size(), "0x%x", lanes);
  return text.data();
}

// Nobody can go on: all wait at one barrier, or something is wrong.
void pass_barrier() {
  const int threads = static_cast<int>(block_extent.count());
  int at_barrier = -1, other_barrier = -1, in_warp = -1, done = -1;
  for (int i = 0; i < threads; ++i) {
    switch (fibres[i].state) {
      case State::kInWarp:
        in_warp = i;
        break;
      case State::kDone:
        done = i;
        break;
      default:
        if (at_barrier >= 0 && fibres[i].barrier != fibres[at_barrier].barrier) other_barrier = i;
        if (at_barrier < 0) at_barrier = i;
    }
  }
  if (in_warp >= 0) {
    running->complaint = "deadlock: lanes of the warp do not come";
    for (const auto& [lanes, meeting] : running->warps[in_warp / kWarp]) {
      if (meeting.arrived == 0) continue;
      running->complaint +=
          c10::str(", of the lanes ", bits(lanes), " only ", bits(meeting.arrived), " have");
    }
    make_ready(in_warp);
    return;
  }
  if (done >= 0 || other_barrier >= 0) {
    running->complaint = "divergent barrier: ";
    if (done >= 0) {
      running->complaint += describe(done) + " has returned";
    } else {
      const auto& [file, line] = fibres[other_barrier].barrier;
      running->complaint += c10::str(describe(other_barrier), " waits at another, at ",
                                     file.substr(file.find_last_of('/') + 1), ":", line);
    }
    make_ready(at_barrier);
    return;
  }
  if (settings.counting) {
    flush_warps();
    ++counters().barriers;
  }
  for (int i = 0; i < threads; ++i) {
    ++fibres[i].moment.barriers;
    make_ready(i);
  }
}

void run_block() {
  prepare_fibres();
  const int threads = static_cast<int>(block_extent.count());
  struct Destroy {
    int threads;
    ~Destroy() {
      for (int i = 0; i < threads; ++i) fibres[i].sanitized.destroy();
    }
  } destroy{threads};
  while (running->done < threads) {
    auto& ready = running->ready;
    if (ready.empty()) pass_barrier();
    const size_t pick = settings.counting ? ready.size() - 1 : running->random() % ready.size();
    std::swap(ready[pick], ready.back());
    const int thread = ready.back();
    ready.pop_back();
    resume(thread);
    if (running->error) std::rethrow_exception(running->error);
    if (fibres[thread].state == State::kDone) ++running->done;
    if (fibres[thread].state == State::kReady) ready.push_back(thread);
  }
  running->whole.acquire();
}

void check_launch(const void* kernel, size_t shared_bytes) {
  const uint64_t threads = block_extent.count();
  TORCH_CHECK(grid_extent.count() > 0 && threads > 0 && threads <= kMostThreads,
              "emulation: ", running->kernel, " is launched with ", grid_extent.count(),
              " blocks of ", threads, " threads, expected at least one block of 1 to ",
              kMostThreads);
  const int allowed =
      std::max(48 * 1024, allowed_shared_bytes.count(kernel) ? allowed_shared_bytes[kernel] : 0);
  TORCH_CHECK(static_cast<int64_t>(shared_bytes) <= allowed &&
                  static_cast<int64_t>(shared_bytes) <= device.shared_bytes,
              "emulation: ", running->kernel, " is launched with ", shared_bytes,
              " bytes of shared memory, expected at most ", std::min(allowed, device.shared_bytes),
              ": what cudaFuncSetAttribute has allowed, and the device has");
}

// The lanes are all there: what each has done or seen comes before whatever they do next.
void finish(uint32_t lanes, Meeting& meeting) {
  Fibre* const warp = &fibres[current / kWarp * kWarp];
  std::array<uint32_t, kWarp> seen{};
  for (int i = 0; i < kWarp; ++i) {
    if ((lanes >> i & 1) == 0) continue;
    for (int j = 0; j < kWarp; ++j) seen[j] = std::max(seen[j], warp[i].seen[j]);
    seen[i] = ++warp[i].moment.meetings;
  }
  for (int i = 0; i < kWarp; ++i) {
    if ((lanes >> i & 1) == 0) continue;
    warp[i].seen = seen;
    if (warp[i].state == State::kInWarp) make_ready(current / kWarp * kWarp + i);
  }
  meeting.arrived = 0;
  ++meeting.number;
}

// Waits for the lanes of the warp and returns what each gave.
const uint64_t* meet(uint32_t lanes, uint64_t value) {
  const int threads = static_cast<int>(block_extent.count()) - current / kWarp * kWarp;
  if (threads < kWarp && lanes >> threads != 0) {
    fail(c10::str("a warp of ", threads, " threads is to meet for the lanes ", bits(lanes)));
  }
  if ((lanes >> lane() & 1) == 0) {
    fail(c10::str("a lane meets its warp for lanes without itself, ", bits(lanes)));
  }
  Meeting& meeting = running->warps[current / kWarp][lanes];
  const int parity = meeting.number % 2;
  meeting.values[parity][lane()] = value;
  meeting.order[parity].release();
  meeting.arrived |= 1u << lane();
  if (meeting.arrived == lanes) {
    finish(lanes, meeting);
  } else {
    me().state = State::kInWarp;
    to_scheduler();
  }
  meeting.order[parity].acquire();
  return meeting.values[parity];
}

void count_exchange(uint32_t lanes) {
  if (settings.counting && lane() == std::countr_zero(lanes)) ++counters().exchanges;
}

}  // namespace

const Moment& now() { return me().moment; }
int thread_number() { return current; }

bool comes_before_now(const Moment& then) {
  const Fibre& fibre = me();
  if (then.block != fibre.moment.block) return then.block < 0;  // none at all
  if (then.thread == current || then.barriers < fibre.moment.barriers) return true;
  return then.thread / kWarp == current / kWarp && then.meetings < fibre.seen[then.thread % kWarp];
}

int lane() { return current % kWarp; }

const std::string& kernel_name() {
  static const std::string none;
  return running == nullptr ? none : running->kernel;
}

void fail(const std::string& what) {
  TORCH_CHECK(false, "emulation: ", what, "; in ", kernel_name(), ", block (", block_index.x, ", ",
              block_index.y, ", ", block_index.z, "), ", current >= 0 ? describe(current) : "",
              ", ", call_site());
}

void allow_shared_bytes(const void* kernel, int bytes) { allowed_shared_bytes[kernel] = bytes; }

void observe(Access access, const void* pointer, int bytes) {
  observe_memory(access, pointer, bytes);
  if (settings.counting) {
    count_access(access, pointer, bytes, __builtin_return_address(0));
  } else if (running->random() % kPreemptOneIn == 0) {
    to_scheduler();
  }
}

void synchronize_block(const char* file, int line) {
  me().barrier = {file, line};
  me().state = State::kAtBarrier;
  SanitizedOrder& order = running->barrier[me().moment.barriers % 2];
  order.release();
  to_scheduler();
  order.acquire();
}

void meet_lanes(uint32_t lanes) { meet(lanes, 0); }

void synchronize_warp(uint32_t lanes) {
  count_exchange(lanes);
  meet(lanes, 0);
}

uint64_t exchange(uint32_t lanes, uint64_t value, int from) {
  if (from < 0 || from >= kWarp || (lanes >> from & 1) == 0) {
    fail(c10::str("a lane reads from lane ", from, ", which is none of ", bits(lanes)));
  }
  count_exchange(lanes);
  return meet(lanes, value)[from];
}

uint32_t vote(uint32_t lanes, bool value) {
  count_exchange(lanes);
  const uint64_t* const values = meet(lanes, value);
  uint32_t result = 0;
  for (int i = 0; i < kWarp; ++i) {
    if ((lanes >> i & 1) != 0 && values[i] != 0) result |= 1u << i;
  }
  return result;
}

void copy_async(void* shared, const void* global, int bytes) {
  start_copy(shared, global, bytes);
  if (settings.counting) {
    count_access(Access::kGlobalLoad, global, bytes, __builtin_return_address(0));
    count_access(Access::kSharedStore, shared, bytes, __builtin_return_address(0));
  }
  running->copies[current].push_back({shared, global, bytes});
}

void wait_copies() {
  for (const Copy& copy : running->copies[current]) {
    finish_copy(copy.shared, copy.global, copy.bytes);
    std::memcpy(copy.shared, copy.global, copy.bytes);
  }
  running->copies[current].clear();
}

void launch(const void* kernel, Extent grid, Extent block, size_t shared_bytes,
            const std::function<void()>& thread) {
  Launch launched;
  launched.thread = &thread;
  launched.kernel = name_of(kernel);
  launched.random.seed(settings.seed);
  grid_extent = grid;
  block_extent = block;
  running = &launched;
  struct Reset {
    ~Reset() {
      running = nullptr;
      current = -1;
    }
  } reset;
  check_launch(kernel, shared_bytes);
  scheduler_fibre.adopt();
  start_launch_memory();
  if (settings.counting) start_launch_counters();
  std::vector<int64_t> order(grid.count());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  if (!settings.counting) std::shuffle(order.begin(), order.end(), launched.random);
  for (const int64_t number : order) {
    launched.block = number;
    block_index = {static_cast<unsigned>(number % grid.x),
                   static_cast<unsigned>(number / grid.x % grid.y),
                   static_cast<unsigned>(number / grid.x / grid.y)};
    start_block_memory(shared_bytes);
    run_block();
    if (settings.counting) finish_block_counters();
  }
  if (settings.counting) finish_launch_counters();
}

}  // namespace emulation
