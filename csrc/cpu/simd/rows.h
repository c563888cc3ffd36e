// Rows of numbers of any length. Included by kernels_impl.h inside its namespace; see there.

template <typename T>
void add_pixels(T* sums, const T* rows, int64_t pixels) {
  for (int64_t c = 0; c < kChunk; c += kLanes<T>) {
    Vec<T> total{};
    for (int64_t p = 0; p < pixels; ++p) total += load(rows + p * kChunk + c);
    store(sums + c, load(sums + c) + total);
  }
}

template <typename T>
void gather(T* to, const T* from, const int64_t* cell, const T* value, int64_t size) {
  const T *a = from + cell[0], *b = from + cell[1], *c = from + cell[2], *d = from + cell[3];
  const T va = value[0], vb = value[1], vc = value[2], vd = value[3];
  int64_t i = 0;
  for (; i + kLanes<T> <= size; i += kLanes<T>) {
    store(to + i,
          load(to + i) + va * load(a + i) + vb * load(b + i) + vc * load(c + i) + vd * load(d + i));
  }
  for (; i < size; ++i) to[i] += va * a[i] + vb * b[i] + vc * c[i] + vd * d[i];
}

template <typename T>
void scatter(T* to, const int64_t* cell, const T* value, const T* from, int64_t size) {
  for (int q = 0; q < 4; ++q) {
    T* place = to + cell[q];
    const T factor = value[q];
    int64_t i = 0;
    for (; i + kLanes<T> <= size; i += kLanes<T>) {
      store(place + i, load(place + i) + factor * load(from + i));
    }
    for (; i < size; ++i) place[i] += factor * from[i];
  }
}

template <typename T>
void dots(T* along, const T* from, const int64_t* cell, const T* other, int64_t size) {
  Vec<T> total[4] = {};
  for (int64_t i = 0; i < size; i += kLanes<T>) {
    const int64_t rest = size - i;
    const bool whole = rest >= kLanes<T>;
    const Vec<T> o = whole ? load(other + i) : load_some(other + i, rest);
    for (int q = 0; q < 4; ++q) {
      const T* start = from + cell[q] + i;
      total[q] += o * (whole ? load(start) : load_some(start, rest));
    }
  }
  std::memset(along, 0, 4 * sizeof(T));
  add_sums<T>(total[0], total[1], total[2], total[3], along);
}
