// The one bilinear look-up of the project: into the scope and into the image, on every device.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define MMDK_HOST_DEVICE __host__ __device__ inline
#else
#define MMDK_HOST_DEVICE inline
#endif

namespace mmdk {

// One axis of a look-up: the two cells around the coordinate, their weights and the derivative of
// those weights. A cell outside [0, size) weighs nothing; its index is clamped so that reading it
// is harmless. At an integer coordinate the derivative is the one towards +1.
template <typename T>
struct AxisLookup {
  int64_t cell[2];
  T value[2];
  T slope[2];
};

template <typename T>
struct Lookup {
  AxisLookup<T> y{};
  AxisLookup<T> x{};
  bool inside = false;
};

// The cells `lower` and `lower + 1`, for a coordinate that lies `fraction` above `lower`.
template <typename T>
MMDK_HOST_DEVICE AxisLookup<T> look_up_axis(int64_t lower, T fraction, int64_t size) {
  const bool has_lower = lower >= 0;
  const bool has_upper = lower + 1 < size;
  AxisLookup<T> axis;
  axis.cell[0] = has_lower ? lower : 0;
  axis.cell[1] = has_upper ? lower + 1 : size - 1;
  axis.value[0] = has_lower ? 1 - fraction : T(0);
  axis.value[1] = has_upper ? fraction : T(0);
  axis.slope[0] = has_lower ? T(-1) : T(0);
  axis.slope[1] = has_upper ? T(1) : T(0);
  return axis;
}

// `inside` is false, and the rest zero, unless -1 < y < height and -1 < x < width. Written so that
// a NaN coordinate is outside.
template <typename T>
MMDK_HOST_DEVICE Lookup<T> look_up(T y, T x, int64_t height, int64_t width) {
  Lookup<T> lookup;
  lookup.inside = y > T(-1) && y < T(height) && x > T(-1) && x < T(width);
  if (lookup.inside) {
    const T lower_y = std::floor(y), lower_x = std::floor(x);
    lookup.y = look_up_axis(static_cast<int64_t>(lower_y), y - lower_y, height);
    lookup.x = look_up_axis(static_cast<int64_t>(lower_x), x - lower_x, width);
  }
  return lookup;
}

// Calls f(cell, value, slope_y, slope_x) for the four cells of a look-up that is inside, in rows of
// `width` cells: the cell's weight and its derivatives by the two coordinates.
template <typename T, typename F>
MMDK_HOST_DEVICE void for_each_cell(const Lookup<T>& lookup, int64_t width, const F& f) {
  for (int row = 0; row < 2; ++row) {
    for (int column = 0; column < 2; ++column) {
      f(lookup.y.cell[row] * width + lookup.x.cell[column],
        lookup.y.value[row] * lookup.x.value[column], lookup.y.slope[row] * lookup.x.value[column],
        lookup.y.value[row] * lookup.x.slope[column]);
    }
  }
}

// The scope coordinate of kernel row (or column) `index` at zero offset: kernels rest in the middle
// of their scope.
template <typename T>
MMDK_HOST_DEVICE T rest_coordinate(int64_t index, int64_t kernel, int64_t scope) {
  return T(index) + T(scope - kernel) / 2;
}

}  // namespace mmdk
