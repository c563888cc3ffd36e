// Products of small matrices by a warp, lane by lane as the PTX manual lays their fragments out.
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

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

}  // namespace

template <typename T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  constexpr uint32_t all = 0xffffffffu;
  // Of lane l: rows l / 4 and l / 4 + 8 of A and D; columns l % 4 * 2 and the next, of A also those
  // 8 further on; of B column l / 4 and the rows that A has as columns.
  float left[16][16], right[16][8];
  for (int from = 0; from < kWarp; ++from) {
    const int group = from / 4, pair = from % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      const auto word = static_cast<uint32_t>(exchange(all, a[i], from));
      const int row = group + i % 2 * 8, column = pair + i / 2 * 8;
      for (int j = 0; j < 2; ++j) left[row][column + j] = part<T>(word, j);
    }
    for (int i = 0; i < 2; ++i) {
      const auto word = static_cast<uint32_t>(exchange(all, b[i], from));
      for (int j = 0; j < 2; ++j) right[pair + i * 8 + j][group] = part<T>(word, j);
    }
  }
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
