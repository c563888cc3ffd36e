// Products of small matrices by a warp, lane by lane as the PTX manual lays their fragments out.
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>

#include "engine/engine.h"

namespace emulation {
namespace {

// Two numbers in a register, the first in its low half.
template <typename T>
float part(uint32_t word, int which) {
  const uint16_t bits = static_cast<uint16_t>(word >> (16 * which));
  T number;
  std::memcpy(&number, &bits, sizeof(number));
  return static_cast<float>(number);
}

// What each lane of each warp brings; kept while all of them read it.
struct Fragments {
  uint32_t a[4], b[2];
};
Fragments fragments[kMostThreads / kWarp][kWarp];

constexpr uint32_t kAllLanes = 0xffffffffu;

}  // namespace

template <typename T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Fragments* const warp = fragments[thread_number() / kWarp];
  std::copy(a, a + 4, warp[lane()].a);
  std::copy(b, b + 2, warp[lane()].b);
  meet_lanes(kAllLanes);
  // Of lane l: rows l / 4 and l / 4 + 8 of A and D; columns l % 4 * 2 and the next, of A also those
  // 8 further on; of B column l / 4 and the rows that A has as columns.
  float left[16][16], right[16][8];
  for (int from = 0; from < kWarp; ++from) {
    const int group = from / 4, pair = from % 4 * 2;
    for (int j = 0; j < 2; ++j) {
      for (int i = 0; i < 4; ++i) {
        left[group + i % 2 * 8][pair + i / 2 * 8 + j] = part<T>(warp[from].a[i], j);
      }
      for (int i = 0; i < 2; ++i) right[pair + i * 8 + j][group] = part<T>(warp[from].b[i], j);
    }
  }
  meet_lanes(kAllLanes);
  const int group = lane() / 4, pair = lane() % 4 * 2;
  for (int i = 0; i < 4; ++i) {
    const int row = group + i / 2 * 8, column = pair + i % 2;
    for (int k = 0; k < 16; ++k) d[i] += left[row][k] * right[k][column];
  }
  if (settings.counting && lane() == 0) ++counters().mmas;
}

template void mma_m16n8k16<c10::Half>(float (&)[4], const uint32_t (&)[4], const uint32_t (&)[2]);
template void mma_m16n8k16<c10::BFloat16>(float (&)[4], const uint32_t (&)[4],
                                          const uint32_t (&)[2]);

}  // namespace emulation
