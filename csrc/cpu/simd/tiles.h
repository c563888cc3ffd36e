// Between what taps see and the tile Z of sampled data that a dense product needs, and back.
// Included by kernels_impl.h inside its namespace; see there.

template <typename T>
void spread_plan(const LookupPlan<T>& plan, const int64_t* scope, int64_t pixels, int64_t taps,
                 T* coefficients) {
  const int64_t width = scope[1], bordered_width = width + 2;
  const int64_t padded = padded_cells(scope[0] * width);
  std::memset(coefficients, 0, pixels * taps * padded * sizeof(T));
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t k = 0; k < taps; ++k) {
      const int64_t upper_left = plan.cell[k * kStrip + p];
      if (upper_left < 0) continue;
      const int64_t row = upper_left / bordered_width - 1, column = upper_left % bordered_width - 1;
      T* to = coefficients + (p * taps + k) * padded;
      for (int64_t q = 0; q < 4; ++q) {
        const int64_t y = row + q / 2, x = column + q % 2;
        if (y >= 0 && y < scope[0] && x >= 0 && x < width) {
          to[y * width + x] = plan.value[(k * 4 + q) * kStrip + p];
        }
      }
    }
  }
}

// CHANNELS channels of one pixel, one vector of cells; the rest of a vector beyond `cells` is
// written where the next channel's cells will be.
template <int CHANNELS, typename T>
inline void sample_cells(const TapRows<T>& in, const T* coefficients, int64_t padded, int64_t at,
                         T* z, int64_t cells, int64_t count) {
  Vec<T> total[CHANNELS] = {};
  for (int64_t k = 0; k < in.taps; ++k) {
    if (in.tap[k] == nullptr) continue;
    const Vec<T> coefficient = load(coefficients + k * padded);
    const T* x = in.tap[k] + at;
    for (int c = 0; c < CHANNELS; ++c) total[c] += x[c] * coefficient;
  }
  for (int c = 0; c < CHANNELS; ++c) store_some(z + c * cells, total[c], count);
}

template <int CHANNELS, typename T>
inline void sample_channels(const TapRows<T>& in, const T* coefficients, int64_t p, int64_t channel,
                            int64_t cells, T* z) {
  const int64_t padded = padded_cells(cells), at = p * in.pixel_step + channel;
  int64_t cell = 0;
  for (; cell + kLanes<T> <= cells; cell += kLanes<T>) {
    sample_cells<CHANNELS>(in, coefficients + cell, padded, at, z + cell, cells, kLanes<T>);
  }
  if (cell < cells) {
    sample_cells<CHANNELS>(in, coefficients + cell, padded, at, z + cell, cells, cells - cell);
  }
}

template <typename T>
void sample_tile(const TapRows<T>& input, const T* coefficients, int64_t cells, int64_t channels,
                 T* z, int64_t step) {
  constexpr int together = 8;
  const TapRows<T> in = input;
  for (int64_t p = 0; p < in.pixels; ++p) {
    const T* of_pixel = coefficients + p * in.taps * padded_cells(cells);
    T* to = z + p * step;
    int64_t c = 0;
    for (; c + together <= channels; c += together) {
      sample_channels<together>(in, of_pixel, p, c, cells, to + c * cells);
    }
    for (; c < channels; ++c) sample_channels<1>(in, of_pixel, p, c, cells, to + c * cells);
  }
}

// Taps [tap, tap + kLanes) of kLanes channels, the last of which may be the last of all. What lies
// behind a channel's last tap is written before it gets its value.
template <typename T>
inline void collect_block(const TapRows<T>& in, int64_t tap, int64_t at, int64_t channels, T* z) {
  constexpr int64_t lanes = kLanes<T>;
  const int64_t taps = in.taps - tap < lanes ? in.taps - tap : lanes;
  Vec<T> block[lanes] = {};
  for (int64_t i = 0; i < taps; ++i) {
    if (in.tap[tap + i] != nullptr) block[i] = load(in.tap[tap + i] + at);
  }
  transpose<T>(block);
  if (channels > lanes) {
    for (int64_t c = 0; c < lanes; ++c) store(z + c * in.taps, block[c]);
    return;
  }
  for (int64_t c = 0; c < channels; ++c) store_some(z + c * in.taps, block[c], taps);
}

template <typename T>
void collect_tile(const TapRows<T>& input, int64_t channels, T* z, int64_t step) {
  constexpr int64_t lanes = kLanes<T>;
  const TapRows<T> in = input;
  for (int64_t p = 0; p < in.pixels; ++p) {
    for (int64_t c = 0; c < channels; c += lanes) {
      for (int64_t tap = (in.taps - 1) / lanes * lanes; tap >= 0; tap -= lanes) {
        collect_block(in, tap, p * in.pixel_step + c, channels - c,
                      z + p * step + c * in.taps + tap);
      }
    }
  }
}

// Calls f(cell, first channel, their kLanes numbers) for all of one pixel's (channels, cells); a
// chunk's channels that are not there are zero.
template <typename T, typename F>
inline void for_each_column(const T* pixel, int64_t channels, int64_t cells, const F& f) {
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t first = 0; first < channels; first += lanes) {
    for (int64_t cell = 0; cell < cells; cell += lanes) {
      Vec<T> block[lanes];
      for (int64_t i = 0; i < lanes; ++i) {
        block[i] = first + i < channels ? load(pixel + (first + i) * cells + cell) : Vec<T>{};
      }
      transpose<T>(block);
      const int64_t count = cells - cell < lanes ? cells - cell : lanes;
      for (int64_t i = 0; i < count; ++i) f(cell + i, first, block[i]);
    }
  }
}

template <bool INPUT, bool OFFSET, typename T>
inline void sample_tile_backward_tap(const TapRows<T>& in, const SampledScope<T>& scope,
                                     const TileGradients<T>& to, int64_t k, int64_t p) {
  constexpr int64_t lanes = kLanes<T>;
  const T* upper = to.scratch + scope.plan.cell[k * kStrip + p] * kChunk;
  const T* lower = upper + scope.bordered_width * kChunk;
  const Vec<T> below = fraction_y(scope.plan, k, p), right = fraction_x(scope.plan, k, p);
  CoordinateSlopes<T> slopes;
  for (int64_t first = 0; first < to.channels; first += lanes) {
    const Vec<T> cell[4] = {load(upper + first), load(upper + kChunk + first), load(lower + first),
                            load(lower + kChunk + first)};
    const int64_t at = p * in.pixel_step + first, grad_at = p * to.grad_step + first;
    const Between<T> between(cell, below, right);
    if (OFFSET) slopes.add(between, load(in.tap[k] + at));
    if (INPUT) {
      T* grad_x = to.grad_input[k] + grad_at;
      store(grad_x, load(grad_x) + between.value);
    }
  }
  if (OFFSET) add_slopes<1>(&slopes, to.grad_offset, k, p);
}

template <bool INPUT, bool OFFSET, typename T>
void sample_tile_backward_row(const TapRows<T> in, const SampledScope<T> scope,
                              const TileGradients<T> to) {
  const int64_t width = to.scope[1], cells = to.scope[0] * width;
  for (int64_t p = 0; p < in.pixels; ++p) {
    for_each_column(to.grad_z + p * to.step, to.channels, cells,
                    [&](int64_t cell, int64_t first, Vec<T> numbers) {
                      const int64_t row = cell / width + 1, column = cell % width + 1;
                      store(to.scratch + (row * scope.bordered_width + column) * kChunk + first,
                            numbers);
                    });
    for (int64_t k = 0; k < in.taps; ++k) {
      if (in.tap[k] == nullptr || scope.plan.cell[k * kStrip + p] < 0) continue;
      sample_tile_backward_tap<INPUT, OFFSET>(in, scope, to, k, p);
    }
  }
}

template <typename T>
void sample_tile_backward(const TapRows<T>& in, const SampledScope<T>& scope,
                          const TileGradients<T>& to) {
  const bool input = to.grad_input != nullptr, offset = to.grad_offset != nullptr;
  if (input && offset) return sample_tile_backward_row<true, true>(in, scope, to);
  if (input) sample_tile_backward_row<true, false>(in, scope, to);
  if (offset) sample_tile_backward_row<false, true>(in, scope, to);
}

template <typename T>
void collect_tile_backward(const TapRows<T>& input, const TileGradients<T>& gradients) {
  const TapRows<T> in = input;
  const TileGradients<T> to = gradients;
  for (int64_t p = 0; p < in.pixels; ++p) {
    for_each_column(to.grad_z + p * to.step, to.channels, in.taps,
                    [&](int64_t k, int64_t first, Vec<T> numbers) {
                      if (to.grad_input[k] == nullptr) return;
                      T* grad_x = to.grad_input[k] + p * to.grad_step + first;
                      store(grad_x, load(grad_x) + numbers);
                    });
  }
}
