// Where taps look: coordinates to cells. Included by kernels_impl.h inside its namespace; see
// there.

// kLanes numbers as integers of their own size, and as indices of cells.
template <typename T>
struct IntegersOf {
  typedef int32_t type __attribute__((vector_size(MMDK_VECTOR_BYTES)));
};
template <>
struct IntegersOf<double> {
  typedef int64_t type __attribute__((vector_size(MMDK_VECTOR_BYTES)));
};
template <typename T>
struct IndicesOf {
  typedef int64_t type __attribute__((vector_size(MMDK_VECTOR_BYTES / sizeof(T) * 8)));
};

// One axis of kLanes look-ups. Coordinates lie above -1.
template <typename T>
struct AxisOfLanes {
  typename IndicesOf<T>::type lower;
  Vec<T> fraction;

  explicit AxisOfLanes(Vec<T> coordinate) {
    using Integers = typename IntegersOf<T>::type;
    const Integers truncated = __builtin_convertvector(coordinate, Integers);
    // True is -1, so this is the floor.
    const Integers floor = truncated + (__builtin_convertvector(truncated, Vec<T>) > coordinate);
    lower = __builtin_convertvector(floor, typename IndicesOf<T>::type);
    fraction = coordinate - __builtin_convertvector(floor, Vec<T>);
  }
};

// The pixels of one tap, whole vectors of them.
template <typename T>
inline void plan_tap(const T* y, const T* x, const LookupRequest<T>& request,
                     const LookupPlan<T>& plan, int64_t k) {
  using Indices = typename IndicesOf<T>::type;
  const T height = static_cast<T>(request.grid[0]), width = static_cast<T>(request.grid[1]);
  const int64_t bordered_width = request.grid[1] + 2;
  for (int64_t p = 0; p < request.pixels; p += kLanes<T>) {
    const Vec<T> at_y = load(y + p), at_x = load(x + p);
    // Written so that a NaN coordinate is outside.
    const auto inside = (at_y > T(-1)) & (at_y < height) & (at_x > T(-1)) & (at_x < width);
    const AxisOfLanes<T> row(inside ? at_y : Vec<T>{}), column(inside ? at_x : Vec<T>{});
    const Indices exists = __builtin_convertvector(inside, Indices);
    const Indices cell = (row.lower + 1) * bordered_width + column.lower + 1;
    store(plan.cell + k * kStrip + p, (cell & exists) | ~exists);
    const Vec<T> below = row.fraction, right = column.fraction;
    store(plan.fraction_y + k * kStrip + p, below);
    store(plan.fraction_x + k * kStrip + p, right);
    T* value = plan.value + k * 4 * kStrip + p;
    store(value, (1 - below) * (1 - right));
    store(value + kStrip, (1 - below) * right);
    store(value + 2 * kStrip, below * (1 - right));
    store(value + 3 * kStrip, below * right);
  }
}

template <typename T>
void plan_with_offsets(const LookupRequest<T>& request, const LookupPlan<T>& plan) {
  T y[kStrip] = {}, x[kStrip] = {};
  for (int64_t k = 0; k < request.kernel[0] * request.kernel[1]; ++k) {
    const int64_t i = k / request.kernel[1], j = k % request.kernel[1];
    const T rest_y =
        static_cast<T>(request.first[0] + static_cast<double>(i * request.tap_step[0]));
    const double first_x = request.first[1] + static_cast<double>(j * request.tap_step[1]);
    const T* offset_y = request.offset + 2 * k * request.plane;
    const T* offset_x = offset_y + request.plane;
    for (int64_t p = 0; p < request.pixels; ++p) {
      y[p] = rest_y + offset_y[p];
      x[p] = static_cast<T>(first_x + static_cast<double>(p * request.pixel_step)) + offset_x[p];
    }
    plan_tap(y, x, request, plan, k);
  }
}

// Without offsets all coordinates of an image are whole, and exact whatever their size.
template <typename T>
void plan_whole(const LookupRequest<T>& request, const LookupPlan<T>& plan) {
  for (int64_t k = 0; k < request.kernel[0] * request.kernel[1]; ++k) {
    const int64_t y =
        static_cast<int64_t>(request.first[0]) + k / request.kernel[1] * request.tap_step[0];
    const int64_t first_x =
        static_cast<int64_t>(request.first[1]) + k % request.kernel[1] * request.tap_step[1];
    for (int64_t p = 0; p < request.pixels; ++p) {
      const int64_t x = first_x + p * request.pixel_step, place = k * kStrip + p;
      const bool inside = y >= 0 && y < request.grid[0] && x >= 0 && x < request.grid[1];
      plan.cell[place] = inside ? (y + 1) * (request.grid[1] + 2) + x + 1 : -1;
      plan.fraction_y[place] = plan.fraction_x[place] = 0;
      T* value = plan.value + k * 4 * kStrip + p;
      value[0] = 1;
      value[kStrip] = value[2 * kStrip] = value[3 * kStrip] = 0;
    }
  }
}

template <typename T>
void plan_lookups(const LookupRequest<T>& request, const LookupPlan<T>& plan) {
  if (request.offset == nullptr) {
    plan_whole(request, plan);
  } else {
    plan_with_offsets(request, plan);
  }
}

// The bilinear weights of one look-up, and the first of its cells in arrays of (cells, kChunk).
template <typename T>
struct Look {
  int64_t upper, lower;
  Vec<T> value[4];

  Look(const LookupPlan<T>& plan, int64_t bordered_width, int64_t k, int64_t p)
      : upper(plan.cell[k * kStrip + p] * kChunk), lower(upper + bordered_width * kChunk) {
    const T* values = plan.value + k * 4 * kStrip + p;
    for (int q = 0; q < 4; ++q) value[q] = broadcast(values[q * kStrip]);
  }

  int64_t cell(int q) const { return (q < 2 ? upper : lower) + q % 2 * kChunk; }
};

// The value between four cells, and how it changes with the coordinate.
template <typename T>
struct Between {
  Vec<T> value, slope_y, slope_x;

  Between(const Vec<T>* cell, Vec<T> below, Vec<T> right) {
    const Vec<T> upper = cell[1] - cell[0], left = cell[2] - cell[0];
    const Vec<T> twist = (cell[3] - cell[2]) - upper;
    slope_y = left + right * twist;
    slope_x = upper + below * twist;
    value = (cell[0] + right * upper) + below * slope_y;
  }
};

// Slopes times what arrives, added up lane by lane.
template <typename T>
struct CoordinateSlopes {
  Vec<T> y{}, x{};

  void add(const Between<T>& between, Vec<T> arriving) {
    y += arriving * between.slope_y;
    x += arriving * between.slope_x;
  }
};

template <typename T>
inline Vec<T> fraction_y(const LookupPlan<T>& plan, int64_t k, int64_t p) {
  return broadcast(plan.fraction_y[k * kStrip + p]);
}

template <typename T>
inline Vec<T> fraction_x(const LookupPlan<T>& plan, int64_t k, int64_t p) {
  return broadcast(plan.fraction_x[k * kStrip + p]);
}

// gradient (taps, 2, kStrip) += the sums of PIXELS neighbours' slopes, one pixel or four.
template <int PIXELS, typename T>
inline void add_slopes(const CoordinateSlopes<T>* slopes, T* gradient, int64_t k, int64_t p) {
  T* y = gradient + 2 * k * kStrip + p;
  T* x = y + kStrip;
  if constexpr (PIXELS == 4) {
    add_sums<T>(slopes[0].y, slopes[1].y, slopes[2].y, slopes[3].y, y);
    add_sums<T>(slopes[0].x, slopes[1].x, slopes[2].x, slopes[3].x, x);
  } else {
    T sums[4] = {};
    add_sums<T>(slopes[0].y, slopes[0].x, Vec<T>{}, Vec<T>{}, sums);
    *y += sums[0];
    *x += sums[1];
  }
}
