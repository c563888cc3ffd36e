// One fibre for each thread of a block, block after block, in an order that a seed decides.
#include <c10/util/Exception.h>
#include <ucontext.h>

#include <algorithm>
#include <exception>
#include <memory>
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

constexpr size_t kStackBytes = 256 << 10;
// Of the accesses after which another thread may go on; most interleave at barriers anyway.
constexpr int kPreemptOneIn = 24;

enum class State { kReady, kAtBarrier, kInWarp, kDone };

struct Fibre {
  ucontext_t context{};
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStackBytes]};
  SanitizedFibre sanitized;
  State state = State::kReady;
  Index index;
  Moment moment;
  std::pair<std::string_view, int> barrier;  // that it waits at: file and line
};

// Lanes meet here; what they gave is kept for the slowest until two meetings later.
struct Warp {
  uint64_t values[2][kWarp];
  uint32_t arrived = 0, lanes = 0;
  uint32_t meetings = 0;
  SanitizedOrder order;
};

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
  std::exception_ptr error;
  SanitizedOrder barrier, whole;
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
    fibre.context.uc_stack.ss_sp = fibre.stack.get();
    fibre.context.uc_stack.ss_size = kStackBytes;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, run_thread, 0);
    fibre.sanitized.create();
    fibre.state = State::kReady;
    fibre.index = {i % block_extent.x, i / block_extent.x % block_extent.y,
                   i / block_extent.x / block_extent.y};
    fibre.moment = {running->block, i, 0, 0};
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
    current = in_warp;
    const Warp& warp = running->warps[in_warp / kWarp];
    fail(c10::str("deadlock: ", describe(in_warp),
                  " waits for lanes of its warp that do not come: of the lanes ", warp.lanes,
                  " only ", warp.arrived, " have (bit masks)"));
  }
  if (at_barrier >= 0 && (done >= 0 || other_barrier >= 0)) {
    current = at_barrier;
    fail(done >= 0 ? c10::str("divergent barrier: ", describe(at_barrier),
                              " waits for the block, but ", describe(done), " has returned")
                   : c10::str("divergent barrier: ", describe(at_barrier), " and ",
                              describe(other_barrier), " wait for the block at different places"));
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
  while (running->done < threads) {
    auto& ready = running->ready;
    if (ready.empty()) {
      pass_barrier();
      current = -1;
    }
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
  for (int i = 0; i < threads; ++i) fibres[i].sanitized.destroy();
}

void check_launch(const void* kernel, size_t shared_bytes) {
  const uint64_t threads = block_extent.count();
  TORCH_CHECK(grid_extent.count() > 0 && threads > 0 && threads <= 1024,
              "emulation: ", running->kernel, " is launched with ", grid_extent.count(),
              " blocks of ", threads, " threads, expected at least one block of 1 to 1024");
  const int allowed =
      std::max(48 * 1024, allowed_shared_bytes.count(kernel) ? allowed_shared_bytes[kernel] : 0);
  TORCH_CHECK(static_cast<int64_t>(shared_bytes) <= allowed &&
                  static_cast<int64_t>(shared_bytes) <= device.shared_bytes,
              "emulation: ", running->kernel, " is launched with ", shared_bytes,
              " bytes of shared memory, expected at most ", std::min(allowed, device.shared_bytes),
              ": what cudaFuncSetAttribute has allowed, and the device has");
}

// Meets the lanes and says what number the meeting had.
uint32_t meet(uint32_t lanes) {
  Warp& warp = running->warps[current / kWarp];
  if ((lanes >> lane() & 1) == 0) fail("a lane meets its warp for lanes without itself");
  if (warp.arrived == 0) warp.lanes = lanes;
  if (warp.lanes != lanes) fail("lanes of a warp meet for different lanes");
  warp.order.release();
  warp.arrived |= 1u << lane();
  const uint32_t meeting = warp.meetings;
  if (warp.arrived != lanes) {
    me().state = State::kInWarp;
    to_scheduler();
  } else {
    if (settings.counting) ++counters().exchanges;
    warp.arrived = 0;
    ++warp.meetings;
    const int first = current / kWarp * kWarp;
    for (int i = 0; i < kWarp; ++i) {
      if ((lanes >> i & 1) == 0) continue;
      fibres[first + i].moment.meetings = warp.meetings;
      if (fibres[first + i].state == State::kInWarp) make_ready(first + i);
    }
  }
  warp.order.acquire();
  return meeting;
}

}  // namespace

const Moment& now() { return me().moment; }
int64_t block_number() { return running->block; }
int thread_number() { return current; }
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
  running->barrier.release();
  to_scheduler();
  running->barrier.acquire();
}

void synchronize_warp(uint32_t lanes) { meet(lanes); }

uint64_t exchange(uint32_t lanes, uint64_t value, int from) {
  if ((lanes >> from & 1) == 0) fail("a lane reads from one that does not take part");
  Warp& warp = running->warps[current / kWarp];
  warp.values[warp.meetings % 2][lane()] = value;
  const uint32_t meeting = meet(lanes);
  return warp.values[meeting % 2][from];
}

uint32_t vote(uint32_t lanes, bool value) {
  Warp& warp = running->warps[current / kWarp];
  warp.values[warp.meetings % 2][lane()] = value;
  const uint32_t meeting = meet(lanes);
  uint32_t result = 0;
  for (int i = 0; i < kWarp; ++i) {
    if ((lanes >> i & 1) != 0 && warp.values[meeting % 2][i] != 0) result |= 1u << i;
  }
  return result;
}

void copy_async(void* shared, const void* global, int bytes) {
  observe_memory(Access::kGlobalLoad, global, bytes);
  running->copies[current].push_back({shared, global, bytes});
}

void wait_copies() {
  for (const Copy& copy : running->copies[current]) {
    observe_memory(Access::kSharedStore, copy.shared, copy.bytes);
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
