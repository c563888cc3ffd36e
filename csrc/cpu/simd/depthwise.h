// Depthwise sums. Included by kernels_impl.h inside its namespace; see there.

// As many vectors of a chunk at a time as registers hold, and as many pixels.
template <typename T>
constexpr int kTogether = kChunk / kLanes<T> < 4 ? kChunk / kLanes<T> : 4;
template <typename T>
constexpr int kPixels = kTogether<T> < 4 ? 4 : 1;
template <typename T>
constexpr int kRigidPixels = kTogether<T> < 4 ? 4 : 2;

// PIXELS neighbours that look one tap up in the same four cells, as they do where offsets are
// smooth: the cells are loaded once.
template <int PIXELS, typename T>
inline bool same_cells(const int64_t* cell) {
  bool same = cell[0] >= 0;
  for (int i = 1; i < PIXELS; ++i) same &= cell[i] == cell[0];
  return same;
}

// Pixels of an activation that is read or written in place may be far apart, which no processor
// foresees.
constexpr int64_t kPixelsAhead = 8;
template <int PIXELS, bool WRITE, typename T>
inline void prefetch_pixels(const ChunkRow<T>& row, int64_t p, int64_t first) {
  using Number = std::remove_const_t<T>;
  constexpr int64_t line = 64 / sizeof(Number);
  for (int64_t i = p + kPixelsAhead; i < p + kPixelsAhead + PIXELS; ++i) {
    for (int64_t c = 0; c < kTogether<Number> * kLanes<Number>; c += line) {
      __builtin_prefetch(row.data + i * row.step + first + c, WRITE);
    }
  }
}

template <int PIXELS, typename T>
inline void forward_pixels(const TapRows<T>& in, const SampledScope<T>& scope, int64_t p,
                           int64_t first, const T* bias, const ChunkRow<T>& out) {
  constexpr int64_t lanes = kLanes<T>;
  constexpr int together = kTogether<T>;
  Vec<T> total[PIXELS][together];
  MMDK_UNROLL
  for (int i = 0; i < PIXELS; ++i) {
    MMDK_UNROLL
    for (int v = 0; v < together; ++v) total[i][v] = load(bias + v * lanes);
  }
  prefetch_pixels<PIXELS, true>(out, p, first);
  for (int64_t k = 0; k < in.taps; ++k) {
    if (in.tap[k] == nullptr) continue;
    const T* x = in.tap[k] + p * in.pixel_step + first;
    const int64_t* cells = scope.plan.cell + k * kStrip + p;
    if (PIXELS > 1 && same_cells<PIXELS, T>(cells)) {
      const T* upper = scope.weight + cells[0] * kChunk + first;
      const T* lower = upper + scope.bordered_width * kChunk;
      const T* below = scope.plan.fraction_y + k * kStrip + p;
      const T* right = scope.plan.fraction_x + k * kStrip + p;
      MMDK_UNROLL
      for (int v = 0; v < together; ++v) {
        const Vec<T> corner = load(upper + v * lanes);
        const Vec<T> across = load(upper + kChunk + v * lanes) - corner;
        const Vec<T> down = load(lower + v * lanes) - corner;
        const Vec<T> twist = load(lower + kChunk + v * lanes) - corner - across - down;
        MMDK_UNROLL
        for (int i = 0; i < PIXELS; ++i) {
          const Vec<T> weight = (corner + right[i] * across) + below[i] * (down + right[i] * twist);
          total[i][v] += weight * load(x + i * in.pixel_step + v * lanes);
        }
      }
      continue;
    }
    MMDK_UNROLL
    for (int i = 0; i < PIXELS; ++i) {
      if (cells[i] < 0) continue;
      const Look<T> look(scope.plan, scope.bordered_width, k, p + i);
      const T* weights = scope.weight + first;
      MMDK_UNROLL
      for (int v = 0; v < together; ++v) {
        Vec<T> weight = look.value[0] * load(weights + look.cell(0) + v * lanes);
        MMDK_UNROLL
        for (int q = 1; q < 4; ++q) {
          weight += look.value[q] * load(weights + look.cell(q) + v * lanes);
        }
        total[i][v] += weight * load(x + i * in.pixel_step + v * lanes);
      }
    }
  }
  MMDK_UNROLL
  for (int i = 0; i < PIXELS; ++i) {
    T* to = out.data + (p + i) * out.step + first;
    MMDK_UNROLL
    for (int v = 0; v < together; ++v) store(to + v * lanes, total[i][v]);
  }
}

// Arguments are copied: nothing that is written can be an alias of their members.
template <typename T>
void depthwise_forward(const TapRows<T>& input, const SampledScope<T>& sampled, const T* bias,
                       const ChunkRow<T>& output) {
  const TapRows<T> in = input;
  const SampledScope<T> scope = sampled;
  const ChunkRow<T> out = output;
  for (int64_t first = 0; first < kChunk; first += kTogether<T> * kLanes<T>) {
    int64_t p = 0;
    for (; p + kPixels<T> <= in.pixels; p += kPixels<T>) {
      forward_pixels<kPixels<T>>(in, scope, p, first, bias + first, out);
    }
    for (; p < in.pixels; ++p) forward_pixels<1>(in, scope, p, first, bias + first, out);
  }
}

template <int PIXELS, typename T>
inline void rigid_forward_pixels(const TapRows<T>& in, const T* weight, int64_t p, const T* bias,
                                 const ChunkRow<T>& out, int64_t first) {
  constexpr int64_t lanes = kLanes<T>;
  constexpr int together = kTogether<T>;
  Vec<T> total[PIXELS][together];
  MMDK_UNROLL
  for (int i = 0; i < PIXELS; ++i) {
    MMDK_UNROLL
    for (int v = 0; v < together; ++v) total[i][v] = load(bias + first + v * lanes);
  }
  for (int64_t k = 0; k < in.taps; ++k) {
    if (in.tap[k] == nullptr) continue;
    const T* x = in.tap[k] + p * in.pixel_step + first;
    MMDK_UNROLL
    for (int v = 0; v < together; ++v) {
      const Vec<T> w = load(weight + k * kChunk + first + v * lanes);
      MMDK_UNROLL
      for (int i = 0; i < PIXELS; ++i) total[i][v] += w * load(x + i * in.pixel_step + v * lanes);
    }
  }
  MMDK_UNROLL
  for (int i = 0; i < PIXELS; ++i) {
    T* to = out.data + (p + i) * out.step + first;
    MMDK_UNROLL
    for (int v = 0; v < together; ++v) store(to + v * lanes, total[i][v]);
  }
}

template <typename T>
void rigid_forward(const TapRows<T>& input, const T* weight, const T* bias,
                   const ChunkRow<T>& output) {
  const TapRows<T> in = input;
  const ChunkRow<T> out = output;
  for (int64_t first = 0; first < kChunk; first += kTogether<T> * kLanes<T>) {
    int64_t p = 0;
    for (; p + kRigidPixels<T> <= in.pixels; p += kRigidPixels<T>) {
      rigid_forward_pixels<kRigidPixels<T>>(in, weight, p, bias, out, first);
    }
    for (; p < in.pixels; ++p) rigid_forward_pixels<1>(in, weight, p, bias, out, first);
  }
}

// What is wanted of depthwise_backward, known to the compiler.
template <bool INPUT, bool WEIGHT, bool OFFSET>
struct Wanted {
  static constexpr bool input = INPUT, weight = WEIGHT, offset = OFFSET;
};

// Four cells of one vector of channels, in arrays of (cells, kChunk).
template <typename T>
struct FourCells {
  Vec<T> cell[4];

  static FourCells load_from(const T* upper_left, int64_t row) {
    return {{load(upper_left), load(upper_left + kChunk), load(upper_left + row),
             load(upper_left + row + kChunk)}};
  }
  void store_to(T* upper_left, int64_t row) const {
    store(upper_left, cell[0]);
    store(upper_left + kChunk, cell[1]);
    store(upper_left + row, cell[2]);
    store(upper_left + row + kChunk, cell[3]);
  }
};

// One tap of one pixel and one vector of channels, `first` on; adds to what is wanted.
template <typename WANTED, typename T>
inline void backward_vector(const TapRows<T>& in, const LookupPlan<T>& plan,
                            const DepthwiseGradients<T>& to, int64_t k, int64_t p, int64_t first,
                            Vec<T> grad, const FourCells<T>& weight, FourCells<T>& grad_weight,
                            CoordinateSlopes<T>& slopes) {
  const Between<T> between(weight.cell, fraction_y(plan, k, p), fraction_x(plan, k, p));
  if (WANTED::input) {
    T* grad_x = to.grad_input[k] + p * to.grad_step + first;
    store(grad_x, load(grad_x) + grad * between.value);
  }
  if (WANTED::weight || WANTED::offset) {
    const Vec<T> product = grad * load(in.tap[k] + p * in.pixel_step + first);
    if (WANTED::offset) slopes.add(between, product);
    if (WANTED::weight) {
      const T* values = plan.value + k * 4 * kStrip + p;
      MMDK_UNROLL
      for (int q = 0; q < 4; ++q) grad_weight.cell[q] += values[q * kStrip] * product;
    }
  }
}

template <int PIXELS, typename WANTED, typename T>
inline void backward_pixels(const TapRows<T>& in, const SampledScope<T>& scope,
                            const DepthwiseGradients<T>& to, int64_t p, int64_t first) {
  constexpr int64_t lanes = kLanes<T>;
  constexpr int together = kTogether<T>;
  const int64_t row = scope.bordered_width * kChunk;
  Vec<T> grad[PIXELS][together];
  MMDK_UNROLL
  for (int i = 0; i < PIXELS; ++i) {
    MMDK_UNROLL
    for (int v = 0; v < together; ++v) {
      grad[i][v] = load(to.grad_output.data + (p + i) * to.grad_output.step + first + v * lanes);
    }
  }
  prefetch_pixels<PIXELS, false>(to.grad_output, p, first);
  for (int64_t k = 0; k < in.taps; ++k) {
    if (in.tap[k] == nullptr) continue;
    CoordinateSlopes<T> slopes[PIXELS];
    const int64_t* cells = scope.plan.cell + k * kStrip + p;
    // Pixels [i, end) look up the same cells.
    const auto add = [&](int i, int end) {
      MMDK_UNROLL
      for (int v = 0; v < together; ++v) {
        const int64_t channel = first + v * lanes, upper_left = cells[i] * kChunk + channel;
        const auto weight = FourCells<T>::load_from(scope.weight + upper_left, row);
        FourCells<T> grad_weight{};
        if (WANTED::weight) grad_weight = grad_weight.load_from(to.grad_weight + upper_left, row);
        MMDK_UNROLL
        for (int j = i; j < end; ++j) {
          backward_vector<WANTED>(in, scope.plan, to, k, p + j, channel, grad[j][v], weight,
                                  grad_weight, slopes[j]);
        }
        if (WANTED::weight) grad_weight.store_to(to.grad_weight + upper_left, row);
      }
    };
    if (PIXELS > 1 && same_cells<PIXELS, T>(cells)) {
      add(0, PIXELS);
    } else {
      MMDK_UNROLL
      for (int i = 0; i < PIXELS; ++i) {
        if (cells[i] >= 0) add(i, i + 1);
      }
    }
    if (WANTED::offset) add_slopes<PIXELS>(slopes, to.grad_offset, k, p);
  }
}

template <typename WANTED, typename T>
void backward_row(const TapRows<T> in, const SampledScope<T> scope,
                  const DepthwiseGradients<T> to) {
  for (int64_t first = 0; first < kChunk; first += kTogether<T> * kLanes<T>) {
    int64_t p = 0;
    for (; p + kPixels<T> <= in.pixels; p += kPixels<T>) {
      backward_pixels<kPixels<T>, WANTED>(in, scope, to, p, first);
    }
    for (; p < in.pixels; ++p) backward_pixels<1, WANTED>(in, scope, to, p, first);
  }
}

template <typename T>
void depthwise_backward(const TapRows<T>& in, const SampledScope<T>& scope,
                        const DepthwiseGradients<T>& to) {
  const bool input = to.grad_input != nullptr, weight = to.grad_weight != nullptr;
  const bool offset = to.grad_offset != nullptr;
  if (input && weight && offset) return backward_row<Wanted<true, true, true>>(in, scope, to);
  if (input) backward_row<Wanted<true, false, false>>(in, scope, to);
  if (weight) backward_row<Wanted<false, true, false>>(in, scope, to);
  if (offset) backward_row<Wanted<false, false, true>>(in, scope, to);
}

template <typename T>
void rigid_backward(const TapRows<T>& input, const T* weight,
                    const DepthwiseGradients<T>& gradients) {
  constexpr int64_t lanes = kLanes<T>;
  const TapRows<T> in = input;
  const DepthwiseGradients<T> to = gradients;
  for (int64_t k = 0; k < in.taps; ++k) {
    if (in.tap[k] == nullptr) continue;
    for (int64_t first = 0; first < kChunk; first += lanes) {
      const T* grad = to.grad_output.data + first;
      if (to.grad_input != nullptr) {
        const Vec<T> w = load(weight + k * kChunk + first);
        T* grad_x = to.grad_input[k] + first;
        for (int64_t p = 0; p < in.pixels; ++p, grad_x += to.grad_step) {
          store(grad_x, load(grad_x) + w * load(grad + p * to.grad_output.step));
        }
      }
      if (to.grad_weight != nullptr) {
        const T* x = in.tap[k] + first;
        Vec<T> total{};
        for (int64_t p = 0; p < in.pixels; ++p) {
          total += load(x + p * in.pixel_step) * load(grad + p * to.grad_output.step);
        }
        T* place = to.grad_weight + k * kChunk + first;
        store(place, load(place) + total);
      }
    }
  }
}
