// What warps ask memory for: accesses of lanes put together into instructions of warps, and the
// caches that these meet.
#include <algorithm>
#include <array>
#include <list>
#include <unordered_map>
#include <unordered_set>

#include "engine/engine.h"

namespace emulation {
namespace {

constexpr uint64_t kSector = 32;
constexpr int kBanks = 32;

// The addresses of one instruction of a warp.
struct Instruction {
  Access access;
  int bytes;
  uint32_t lanes = 0;
  std::array<uint64_t, kWarp> addresses;

  Instruction(Access access, int bytes) : access(access), bytes(bytes) {}
};

// An access of a lane belongs to the warp's instruction at the same place in the code that was
// reached as often by the other lanes.
struct Site {
  std::array<uint32_t, kWarp> reached{};
  std::vector<size_t> instructions;  // places in the log
};

struct WarpLog {
  std::unordered_map<uint64_t, Site> sites;
  std::vector<Instruction> instructions;
};

// Different numbers, at most so many.
template <int most>
class Distinct {
 public:
  bool insert(uint64_t number) {
    // Neighbouring lanes mostly bring what was there last.
    for (int i = size_; i-- > 0;) {
      if (numbers_[i] == number) return false;
    }
    numbers_[size_++] = number;
    return true;
  }
  const uint64_t* begin() const { return numbers_.data(); }
  const uint64_t* end() const { return numbers_.data() + size_; }
  int size() const { return size_; }

 private:
  int size_ = 0;
  std::array<uint64_t, most> numbers_;
};

// Sectors by when they were used last; the one unused longest is given up for a new one.
class Cache {
 public:
  void resize(uint64_t bytes) { capacity_ = bytes / kSector; }

  void access(uint64_t sector, bool writes, Counters& counters) {
    const auto found = places_.find(sector);
    if (found != places_.end()) {
      found->second->dirty |= writes;
      entries_.splice(entries_.begin(), entries_, found->second);
      return;
    }
    if (!writes) ++counters.dram_loads;
    if (entries_.size() >= capacity_) {
      if (entries_.back().dirty) ++counters.dram_stores;
      places_.erase(entries_.back().sector);
      entries_.pop_back();
    }
    entries_.push_front({sector, writes});
    places_[sector] = entries_.begin();
  }

  void write_back(Counters& counters) {
    for (const Entry& entry : entries_) counters.dram_stores += entry.dirty;
    entries_.clear();
    places_.clear();
  }

 private:
  struct Entry {
    uint64_t sector;
    bool dirty;
  };
  uint64_t capacity_ = 0;
  std::list<Entry> entries_;
  std::unordered_map<uint64_t, std::list<Entry>::iterator> places_;
};

std::map<std::string, Counters> by_kernel;
Counters* of_launch = nullptr;
std::array<WarpLog, kMostThreads / kWarp> warps;
std::unordered_set<uint64_t> loaded, stored;  // sectors of a block
Cache l2;

void count_global(const Instruction& instruction, Counters& to) {
  Distinct<2 * kWarp> sectors;
  for (int lane = 0; lane < kWarp; ++lane) {
    if ((instruction.lanes >> lane & 1) == 0) continue;
    const uint64_t address = instruction.addresses[lane];
    sectors.insert(address / kSector);
    sectors.insert((address + instruction.bytes - 1) / kSector);
  }
  const bool loads = instruction.access == Access::kGlobalLoad;
  if (loads) {
    ++to.global_loads;
  } else if (instruction.access == Access::kGlobalStore) {
    ++to.global_stores;
  } else {
    ++to.global_atomics;
  }
  (loads ? to.sectors_loaded : to.sectors_stored) += sectors.size();
  for (const uint64_t sector : sectors) {
    // Atomic additions are made in L2, each of them.
    const bool first = instruction.access == Access::kGlobalAtomic ||
                       (loads ? loaded : stored).insert(sector).second;
    if (!first) continue;
    ++(loads ? to.l2_loads : to.l2_stores);
    l2.access(sector, !loads, to);
  }
}

// Lanes whose accesses are served together: all, halves or quarters of a warp; among them, each
// bank gives one word at a time.
int wavefronts(const Instruction& instruction) {
  const int together = instruction.bytes <= 4 ? kWarp : kWarp * 4 / instruction.bytes;
  int total = 0;
  for (int first = 0; first < kWarp; first += together) {
    std::array<Distinct<kWarp>, kBanks> words;
    int most = 0;
    for (int lane = first; lane < first + together; ++lane) {
      if ((instruction.lanes >> lane & 1) == 0) continue;
      const uint64_t address = instruction.addresses[lane];
      for (uint64_t word = address / 4; word <= (address + instruction.bytes - 1) / 4; ++word) {
        auto& bank = words[word % kBanks];
        bank.insert(word);
        most = std::max(most, bank.size());
      }
    }
    total += most;
  }
  return total;
}

void count(const Instruction& instruction, Counters& to) {
  if (instruction.access == Access::kSharedLoad || instruction.access == Access::kSharedStore) {
    ++(instruction.access == Access::kSharedLoad ? to.shared_loads : to.shared_stores);
    to.shared_wavefronts += wavefronts(instruction);
  } else {
    count_global(instruction, to);
  }
}

}  // namespace

Counters& counters() { return *of_launch; }
std::map<std::string, Counters>& all_counters() { return by_kernel; }
void reset_counters() {
  by_kernel.clear();
  l2.resize(settings.l2_bytes);
}

void start_launch_counters() {
  of_launch = &by_kernel[kernel_name()];
  // What a launch that failed has left.
  for (WarpLog& log : warps) log = WarpLog();
  loaded.clear();
  stored.clear();
}

void count_access(Access access, const void* pointer, int bytes, const void* place) {
  WarpLog& log = warps[thread_number() / kWarp];
  Site& site = log.sites[reinterpret_cast<uint64_t>(place) * 8 + static_cast<uint64_t>(access)];
  const uint32_t times = site.reached[lane()]++;
  if (times == site.instructions.size()) {
    site.instructions.push_back(log.instructions.size());
    log.instructions.emplace_back(access, bytes);
  }
  Instruction& instruction = log.instructions[site.instructions[times]];
  instruction.lanes |= 1u << lane();
  instruction.addresses[lane()] = reinterpret_cast<uint64_t>(pointer);
}

void flush_warps() {
  for (WarpLog& log : warps) {
    for (const Instruction& instruction : log.instructions) count(instruction, *of_launch);
    log.instructions.clear();
    for (auto& [place, site] : log.sites) {
      site.reached.fill(0);
      site.instructions.clear();
    }
  }
}

void finish_block_counters() {
  flush_warps();
  loaded.clear();
  stored.clear();
  ++of_launch->blocks;
  of_launch->threads += static_cast<int64_t>(block_extent.count());
}

void finish_launch_counters() {
  // What the next kernel finds in L2 is not counted for it.
  l2.write_back(*of_launch);
  ++of_launch->launches;
}

}  // namespace emulation
