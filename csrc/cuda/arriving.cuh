// The gradient that arrives at what a tap sees: at each cell of its scope, and between the cells.
#pragma once

#include "cuda/channels.cuh"
#include "cuda/plan.cuh"

namespace mmdk::cuda {

// Where gradients come from. Depthwise: the output's, times the weights. Otherwise the gradient of
// the columns, (pixels, cells or taps, channels of a group), group after group.
template <typename T>
struct Gradients {
  const T* data;
  Source source;
  // Depthwise: (images or 1, rows, C), scopes with a border or kernels.
  const at::opmath_type<T>* weights;
  int rows;
  int64_t weights_step;  // from one image's to the next, or 0
  // Otherwise.
  int64_t group_channels, group;  // channels of a group; step from one group to the next
};

template <typename A, int N>
struct Between {
  Vector<A, N> value, slope_y, slope_x;
};

// Of one lane's channels.
template <typename T, int N, Look look, bool dense>
class Arriving {
 public:
  using A = at::opmath_type<T>;

  __device__ Arriving(const Gradients<T>& from, const Shape& shape, const SharedRows<A, N>& weights,
                      int64_t channel)
      : from_(from),
        data_(from.data + channel),
        width_(dense ? shape.scope[1] : shape.bordered_width()),
        weights_(weights) {
    if constexpr (dense) {
      const int64_t group = divide(channel, from.group_channels);
      data_ = from.data + group * from.group + channel - group * from.group_channels;
    }
  }

  // The output that gradients arrive from, for those that follow.
  __device__ void move_to(int64_t image, int64_t number) {
    const T* const data = data_ + from_.source.at(image, number);
    if constexpr (dense) {
      columns_ = data;
    } else {
      gradient_ = load_channels<N>(data);
    }
  }
  __device__ void move_to_place(int64_t source) {
    static_assert(dense);
    columns_ = data_ + source;
  }

  // The gradient of the output itself; depthwise only.
  __device__ const Vector<A, N>& of_output() const { return gradient_; }

  // What arrives at the data, but for the mask.
  __device__ Vector<A, N> value(const Place& place, A y, A x) const {
    if constexpr (!in_scope(look)) {
      return at_cell(place.cell);
    } else {
      const auto weights = bilinear_weights(y, x);
      Vector<A, N> sum{};
#pragma unroll
      for (int q = 0; q < 4; ++q) add_scaled(sum, weights.at[q], corner(place, q));
      return sum;
    }
  }

  // The same, and how it changes with the coordinate in the scope.
  __device__ Between<A, N> between(const Place& place, A y, A x) const {
    Between<A, N> result{};
    if constexpr (!in_scope(look)) {
      result.value = at_cell(place.cell);
    } else {
      Vector<A, N> cells[4];
#pragma unroll
      for (int q = 0; q < 4; ++q) cells[q] = corner(place, q);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const A upper = cells[1].at[i] - cells[0].at[i], left = cells[2].at[i] - cells[0].at[i];
        const A twist = (cells[3].at[i] - cells[2].at[i]) - upper;
        result.slope_y.at[i] = left + x * twist;
        result.slope_x.at[i] = upper + y * twist;
        result.value.at[i] = (cells[0].at[i] + x * upper) + y * result.slope_y.at[i];
      }
    }
    return result;
  }

 private:
  __device__ Vector<A, N> corner(const Place& place, int q) const {
    if (dense && (place.existing >> q & 1) == 0) return {};
    return at_cell(place.cell + (q < 2 ? 0 : width_) + q % 2);
  }

  __device__ Vector<A, N> at_cell(int cell) const {
    if constexpr (dense) {
      return load_channels<N>(columns_ + cell * from_.group_channels);
    } else {
      Vector<A, N> result = weights_.load(cell);
#pragma unroll
      for (int i = 0; i < N; ++i) result.at[i] *= gradient_.at[i];
      return result;
    }
  }

  const Gradients<T>& from_;
  const T* data_;
  int width_;
  SharedRows<A, N> weights_;
  Vector<A, N> gradient_{};
  const T* columns_ = nullptr;
};

}  // namespace mmdk::cuda
