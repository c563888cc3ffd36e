// The definitions behind kernels.h, for one instruction set: an including file sets its target,
// defines MMDK_SIMD_NAME and MMDK_VECTOR_BYTES, and includes this once. Vectors are the compiler's
// own (GCC and Clang vector extensions), so there is one source for all machines.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/simd/kernels.h"

namespace mmdk::cpu::simd {
namespace MMDK_SIMD_NAME {
namespace {

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(MMDK_VECTOR_BYTES)));
};
template <typename T>
using Vec = typename VectorOf<T>::type;

template <typename T>
constexpr int64_t kLanes = MMDK_VECTOR_BYTES / sizeof(T);

template <typename T>
inline Vec<T> load(const T* from) {
  Vec<T> vector;
  std::memcpy(&vector, from, sizeof(vector));
  return vector;
}

template <typename T, typename V>
inline void store(T* to, V vector) {
  std::memcpy(to, &vector, sizeof(vector));
}

// The first `count` lanes, the others zero.
template <typename T>
inline Vec<T> load_some(const T* from, int64_t count) {
  Vec<T> vector{};
  for (int64_t lane = 0; lane < count; ++lane) vector[lane] = from[lane];
  return vector;
}

// to[i] = the sum of the lanes of vectors[i]: halves first, then pairs across the four vectors, a
// fixed order with short chains.
template <int LANES, typename T, typename V>
inline void sum_four(const V* vectors, T* to) {
  if constexpr (LANES == 1) {
    for (int q = 0; q < 4; ++q) to[q] = vectors[q][0];
  } else if constexpr (LANES == 4) {
    const V ab = __builtin_shufflevector(vectors[0], vectors[1], 0, 4, 1, 5) +
                 __builtin_shufflevector(vectors[0], vectors[1], 2, 6, 3, 7);
    const V cd = __builtin_shufflevector(vectors[2], vectors[3], 0, 4, 1, 5) +
                 __builtin_shufflevector(vectors[2], vectors[3], 2, 6, 3, 7);
    const V all =
        __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    store(to, all);
  } else {
    typedef T Half __attribute__((vector_size(LANES / 2 * sizeof(T))));
    Half halves[4];
    for (int q = 0; q < 4; ++q) {
      Half upper;
      std::memcpy(&halves[q], &vectors[q], sizeof(Half));
      std::memcpy(&upper, reinterpret_cast<const char*>(&vectors[q]) + sizeof(Half), sizeof(Half));
      halves[q] += upper;
    }
    sum_four<LANES / 2>(halves, to);
  }
}

template <typename T>
void add_scaled(T* to, const T* from, T factor, int64_t size) {
  int64_t i = 0;
  for (; i + kLanes<T> <= size; i += kLanes<T>)
    store(to + i, load(to + i) + factor * load(from + i));
  for (; i < size; ++i) to[i] += factor * from[i];
}

template <typename T>
void gather(T* to, const T* from, const Cells<T>& cells, int64_t size) {
  const T *a = from + cells.offset[0], *b = from + cells.offset[1];
  const T *c = from + cells.offset[2], *d = from + cells.offset[3];
  const T va = cells.value[0], vb = cells.value[1], vc = cells.value[2], vd = cells.value[3];
  int64_t i = 0;
  for (; i + kLanes<T> <= size; i += kLanes<T>) {
    store(to + i,
          load(to + i) + va * load(a + i) + vb * load(b + i) + vc * load(c + i) + vd * load(d + i));
  }
  for (; i < size; ++i) to[i] += va * a[i] + vb * b[i] + vc * c[i] + vd * d[i];
}

template <typename T>
void scatter(T* to, const Cells<T>& cells, const T* from, int64_t size) {
  for (int q = 0; q < 4; ++q) {
    if (cells.value[q] != 0) add_scaled(to + cells.offset[q], from, cells.value[q], size);
  }
}

template <typename T>
void dots(T* along, const T* from, const Cells<T>& cells, const T* other, int64_t size) {
  Vec<T> total[4] = {};
  for (int64_t i = 0; i < size; i += kLanes<T>) {
    const int64_t rest = size - i;
    const bool whole = rest >= kLanes<T>;
    const Vec<T> o = whole ? load(other + i) : load_some(other + i, rest);
    for (int q = 0; q < 4; ++q) {
      const T* cell = from + cells.offset[q] + i;
      total[q] += o * (whole ? load(cell) : load_some(cell, rest));
    }
  }
  sum_four<kLanes<T>>(total, along);
}

template <typename T>
void plan_scope(const ScopePlanInput<T>& in, const ScopePlan<T>& plan) {
  const T rest[2] = {T(in.scope[0] - in.kernel[0]) / 2, T(in.scope[1] - in.kernel[1]) / 2};
  const int32_t bordered_width = static_cast<int32_t>(in.scope[1] + 2);
  const T height = T(in.scope[0]), width = T(in.scope[1]);
  for (int64_t k = 0; k < in.kernel[0] * in.kernel[1]; ++k) {
    const T rest_y = T(k / in.kernel[1]) + rest[0], rest_x = T(k % in.kernel[1]) + rest[1];
    const T* offset_y = in.offset == nullptr ? nullptr : in.offset + 2 * k * in.plane;
    int32_t* cell = plan.cell + k * kRowPixels;
    T* fraction_y = plan.fraction_y + k * kRowPixels;
    T* fraction_x = plan.fraction_x + k * kRowPixels;
    T* value = plan.value + k * 4 * kRowPixels;
#pragma omp simd
    for (int64_t p = 0; p < in.pixels; ++p) {
      const T y = offset_y == nullptr ? rest_y : rest_y + offset_y[p * in.step];
      const T x = offset_y == nullptr ? rest_x : rest_x + offset_y[in.plane + p * in.step];
      const bool inside = y > T(-1) && y < height && x > T(-1) && x < width;
      const T safe_y = inside ? y : T(0), safe_x = inside ? x : T(0);
      const T lower_y = std::floor(safe_y), lower_x = std::floor(safe_x);
      const T above = safe_y - lower_y, left = safe_x - lower_x;
      fraction_y[p] = above;
      fraction_x[p] = left;
      value[p] = (1 - above) * (1 - left);
      value[kRowPixels + p] = (1 - above) * left;
      value[2 * kRowPixels + p] = above * (1 - left);
      value[3 * kRowPixels + p] = above * left;
      const int32_t bordered =
          (static_cast<int32_t>(lower_y) + 1) * bordered_width + static_cast<int32_t>(lower_x) + 1;
      cell[p] = inside ? bordered : -1;
    }
  }
}

// The bilinear weights of one look-up, and the first of its cells in arrays of (cells, kChunk).
template <typename T>
struct Look {
  int64_t upper, lower;
  Vec<T> value[4];

  Look(const DepthwiseRow<T>& row, int64_t k, int64_t p, int64_t first)
      : upper(row.plan.cell[k * kRowPixels + p] * kChunk + first),
        lower(upper + row.bordered_width * kChunk) {
    const T* values = row.plan.value + k * 4 * kRowPixels + p;
    for (int q = 0; q < 4; ++q) value[q] = values[q * kRowPixels] - Vec<T>{};
  }

  int64_t cell(int q) const { return (q < 2 ? upper : lower) + q % 2 * kChunk; }
};

// As many vectors of a chunk at a time as registers hold.
template <typename T>
constexpr int kTogether = kChunk / kLanes<T> < 4 ? kChunk / kLanes<T> : 4;

// The arguments' members, copied: nothing that is written can be an alias of them.
template <typename T>
void depthwise_forward(const DepthwiseRow<T>& arguments, T* output) {
  const DepthwiseRow<T> row = arguments;
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t first = 0; first < kChunk; first += kTogether<T> * lanes) {
    for (int64_t p = 0; p < row.pixels; ++p) {
      T* to = output + p * kChunk + first;
      Vec<T> total[kTogether<T>];
      for (int v = 0; v < kTogether<T>; ++v) total[v] = load(to + v * lanes);
      for (int64_t k = 0; k < row.taps; ++k) {
        if (row.plan.cell[k * kRowPixels + p] < 0) continue;
        const Look<T> look(row, k, p, first);
        const T* x = row.input[k] + p * row.pixel_step + first;
        for (int v = 0; v < kTogether<T>; ++v) {
          Vec<T> weight = look.value[0] * load(row.weight + look.cell(0) + v * lanes);
          for (int q = 1; q < 4; ++q) {
            weight += look.value[q] * load(row.weight + look.cell(q) + v * lanes);
          }
          total[v] += weight * load(x + v * lanes);
        }
      }
      for (int v = 0; v < kTogether<T>; ++v) store(to + v * lanes, total[v]);
    }
  }
}

// One tap of one pixel: what is wanted is known to the compiler.
template <bool INPUT, bool WEIGHT, bool OFFSET, typename T>
inline void backward_tap(const DepthwiseRow<T>& row, const DepthwiseGradients<T>& to, int64_t k,
                         int64_t p, int64_t first, const Vec<T>* grad) {
  constexpr int64_t lanes = kLanes<T>;
  const Look<T> look(row, k, p, first);
  const int64_t at = p * row.pixel_step + first;
  Vec<T> along[4] = {};
  for (int v = 0; v < kTogether<T>; ++v) {
    const Vec<T> product = grad[v] * load(row.input[k] + at + v * lanes);
    // All reading of the scope comes before any writing, which the compiler must take for an alias.
    Vec<T> weight{};
    for (int q = 0; q < 4; ++q) {
      const Vec<T> cell = load(row.weight + look.cell(q) + v * lanes);
      if (INPUT) weight += look.value[q] * cell;
      if (OFFSET) along[q] += product * cell;
    }
    if (INPUT) {
      T* grad_x = to.grad_input[k] + at + v * lanes;
      store(grad_x, load(grad_x) + grad[v] * weight);
    }
    if (WEIGHT) {
      for (int q = 0; q < 4; ++q) {
        T* cell = to.grad_weight + look.cell(q) + v * lanes;
        store(cell, load(cell) + look.value[q] * product);
      }
    }
  }
  if (OFFSET) {
    T sums[4];
    sum_four<kLanes<T>>(along, sums);
    T* place = to.along + (k * kRowPixels + p) * 4;
    for (int q = 0; q < 4; ++q) place[q] += sums[q];
  }
}

template <bool INPUT, bool WEIGHT, bool OFFSET, typename T>
void backward_row(const DepthwiseRow<T> row, const DepthwiseGradients<T> to) {
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t first = 0; first < kChunk; first += kTogether<T> * lanes) {
    for (int64_t p = 0; p < row.pixels; ++p) {
      Vec<T> grad[kTogether<T>];
      for (int v = 0; v < kTogether<T>; ++v) {
        grad[v] = load(to.grad_output + p * kChunk + first + v * lanes);
      }
      for (int64_t k = 0; k < row.taps; ++k) {
        if (row.plan.cell[k * kRowPixels + p] < 0) continue;
        backward_tap<INPUT, WEIGHT, OFFSET>(row, to, k, p, first, grad);
      }
    }
  }
}

template <typename T>
void depthwise_backward(const DepthwiseRow<T>& row, const DepthwiseGradients<T>& to) {
  const bool input = to.grad_input != nullptr, weight = to.grad_weight != nullptr;
  const bool offset = to.along != nullptr;
  if (input && weight && offset) return backward_row<true, true, true>(row, to);
  if (input) backward_row<true, false, false>(row, to);
  if (weight) backward_row<false, true, false>(row, to);
  if (offset) backward_row<false, false, true>(row, to);
}

// Calls f(place in the row, place in (chunks, pixels, kChunk), how many) for runs of numbers that
// lie side by side in both, or for single numbers.
template <typename T, typename F>
inline void for_each_run(const PixelRow<T>& row, int64_t chunk_stride, const F& f) {
  if (row.channel_stride == 1) {
    for (int64_t p = 0; p < row.pixels; ++p) {
      for (int64_t c = 0; c < row.channels; c += kChunk) {
        const int64_t count = row.channels - c < kChunk ? row.channels - c : kChunk;
        f(p * row.pixel_stride + c, c / kChunk * chunk_stride + p * kChunk, count);
      }
    }
    return;
  }
  for (int64_t c = 0; c < row.channels; ++c) {
    const int64_t inside = c / kChunk * chunk_stride + c % kChunk;
    for (int64_t p = 0; p < row.pixels; ++p) {
      f(c * row.channel_stride + p * row.pixel_stride, inside + p * kChunk, int64_t{1});
    }
  }
}

// f(to, from) over `count` numbers: a whole chunk in vectors.
template <typename T, typename F>
inline void for_each_number(T* to, const T* from, int64_t count, const F& f) {
  if (count == kChunk) {
    for (int64_t i = 0; i < kChunk; i += kLanes<T>) {
      store(to + i, f(load(to + i), load(from + i)));
    }
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = f(to[i], from[i]);
  }
}

template <typename T>
void load_row(T* to, int64_t chunk_stride, const PixelRow<const T>& from) {
  for_each_run(from, chunk_stride, [&](int64_t outside, int64_t inside, int64_t count) {
    for_each_number(to + inside, from.data + outside, count, [](auto, auto x) { return x; });
  });
}

template <typename T>
void store_row(const PixelRow<T>& to, const T* from, int64_t chunk_stride) {
  for_each_run(to, chunk_stride, [&](int64_t outside, int64_t inside, int64_t count) {
    for_each_number(to.data + outside, from + inside, count, [](auto, auto x) { return x; });
  });
}

template <typename T>
void add_row(const PixelRow<T>& to, const T* from, int64_t chunk_stride) {
  for_each_run(to, chunk_stride, [&](int64_t outside, int64_t inside, int64_t count) {
    for_each_number(to.data + outside, from + inside, count, [](auto y, auto x) { return y + x; });
  });
}

}  // namespace

template <typename T>
const Kernels<T>& kernels(const char* name) {
  static const Kernels<T> table{name,
                                add_scaled<T>,
                                gather<T>,
                                scatter<T>,
                                dots<T>,
                                plan_scope<T>,
                                load_row<T>,
                                store_row<T>,
                                add_row<T>,
                                depthwise_forward<T>,
                                depthwise_backward<T>};
  return table;
}

template const Kernels<float>& kernels<float>(const char*);
template const Kernels<double>& kernels<double>(const char*);

}  // namespace MMDK_SIMD_NAME
}  // namespace mmdk::cpu::simd
