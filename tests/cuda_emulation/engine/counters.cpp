// What warps ask memory for: accesses of lanes put together into instructions of warps, and the
// caches that these meet.
#include <algorithm>
#include <array>
#include <list>
#include <set>
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
  std::vector<std::pair<int, uint64_t>> lanes;
};

// An access of a lane belongs to the warp's instruction at the same place in the code that was
// reached as often by the other lanes.
struct WarpLog {
  std::unordered_map<const void*, std::array<uint32_t, kWarp>> reached;
  std::unordered_map<const void*, std::vector<Instruction>> instructions;
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
std::unordered_map<int, WarpLog> warps;
std::unordered_set<uint64_t> loaded, stored;  // sectors of a block
Cache l2;

void count_global(const Instruction& instruction, Counters& to) {
  std::set<uint64_t> sectors;
  for (const auto& [lane, address] : instruction.lanes) {
    for (uint64_t sector = address / kSector; sector <= (address + instruction.bytes - 1) / kSector;
         ++sector) {
      sectors.insert(sector);
    }
  }
  const bool loads = instruction.access == Access::kGlobalLoad;
  if (loads) {
    ++to.global_loads;
  } else if (instruction.access == Access::kGlobalStore) {
    ++to.global_stores;
  } else {
    ++to.global_atomics;
  }
  (loads ? to.sectors_loaded : to.sectors_stored) += static_cast<int64_t>(sectors.size());
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
    std::array<std::set<uint64_t>, kBanks> words;
    for (const auto& [lane, address] : instruction.lanes) {
      if (lane < first || lane >= first + together) continue;
      for (uint64_t word = address / 4; word <= (address + instruction.bytes - 1) / 4; ++word) {
        words[word % kBanks].insert(word);
      }
    }
    size_t most = 0;
    for (const auto& bank : words) most = std::max(most, bank.size());
    total += static_cast<int>(most);
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

Counters& counters() { return by_kernel[kernel_name()]; }
std::map<std::string, Counters>& all_counters() { return by_kernel; }
void reset_counters() {
  by_kernel.clear();
  l2.resize(settings.l2_bytes);
}

void count_access(Access access, const void* pointer, int bytes, const void* site) {
  WarpLog& log = warps[thread_number() / kWarp];
  const uint32_t times = log.reached[site][lane()]++;
  auto& instructions = log.instructions[site];
  while (instructions.size() <= times) instructions.push_back({access, bytes, {}});
  instructions[times].lanes.emplace_back(lane(), reinterpret_cast<uint64_t>(pointer));
}

void flush_warps() {
  Counters& to = counters();
  for (const auto& [number, log] : warps) {
    for (const auto& [site, instructions] : log.instructions) {
      for (const Instruction& instruction : instructions) count(instruction, to);
    }
  }
  warps.clear();
}

void finish_block_counters() {
  flush_warps();
  loaded.clear();
  stored.clear();
  ++counters().blocks;
  counters().threads += static_cast<int64_t>(block_extent.count());
}

void finish_launch_counters() {
  // What the next kernel finds in L2 is not counted for it.
  l2.write_back(counters());
  ++counters().launches;
}

}  // namespace emulation
