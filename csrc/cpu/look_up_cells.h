// Between look-ups, which know coordinates, and the inner loops, which know cells.
#pragma once

#include "common/bilinear.h"
#include "cpu/simd/kernels.h"

namespace mmdk::cpu {

// The cells of a look-up in rows of `width` cells that are `stride` numbers apart.
template <typename T>
inline simd::Cells<T> cells_of(const Lookup<T>& lookup, int64_t width, int64_t stride, T factor) {
  simd::Cells<T> cells;
  int64_t i = 0;
  for_each_cell(lookup, width, [&](int64_t cell, T value, T, T) {
    cells.offset[i] = cell * stride;
    cells.value[i++] = value * factor;
  });
  return cells;
}

// Adds to gradient[0] and gradient[plane], of y and of x, what a look-up's derivatives make of the
// dot products along its cells.
template <typename T>
inline void add_coordinate_gradient(const Lookup<T>& lookup, const T* along, T factor, T* gradient,
                                    int64_t plane) {
  int64_t i = 0;
  for_each_cell(lookup, 0, [&](int64_t, T, T slope_y, T slope_x) {
    gradient[0] += factor * slope_y * along[i];
    gradient[plane] += factor * slope_x * along[i++];
  });
}

}  // namespace mmdk::cpu
