// Matrix products of few outputs, as narrow convolution groups have them: too small for a BLAS.
// Included by kernels_impl.h inside its namespace; see there.

template <int PIXELS, typename T>
inline void add_dot_products(const Products<T>& of, const T* z, const T* weight, T* outputs) {
  constexpr int64_t lanes = kLanes<T>;
  Vec<T> total[PIXELS] = {};
  int64_t i = 0;
  for (; i + lanes <= of.terms; i += lanes) {
    const Vec<T> w = load(weight + i);
    MMDK_UNROLL
    for (int p = 0; p < PIXELS; ++p) total[p] += w * load(z + p * of.z_step + i);
  }
  if (i < of.terms) {
    const Vec<T> w = load_some(weight + i, of.terms - i);
    for (int p = 0; p < PIXELS; ++p) {
      total[p] += w * load_some(z + p * of.z_step + i, of.terms - i);
    }
  }
  if constexpr (PIXELS == 4) {
    add_sums<T>(total[0], total[1], total[2], total[3], outputs);
  } else {
    T sums[4] = {};
    add_sums<T>(total[0], Vec<T>{}, Vec<T>{}, Vec<T>{}, sums);
    *outputs += sums[0];
  }
}

template <typename T>
void products(const Products<T>& of, const T* z, const T* weight, T* outputs) {
  int64_t p = 0;
  for (; p + 4 <= of.pixels; p += 4) {
    for (int64_t o = 0; o < of.outputs; ++o) {
      add_dot_products<4>(of, z + p * of.z_step, weight + o * of.weight_step,
                          outputs + o * of.output_step + p);
    }
  }
  for (; p < of.pixels; ++p) {
    for (int64_t o = 0; o < of.outputs; ++o) {
      add_dot_products<1>(of, z + p * of.z_step, weight + o * of.weight_step,
                          outputs + o * of.output_step + p);
    }
  }
}

// A vector of terms; `rest`: how many there are where it is no whole vector, or else zero.
template <typename T>
inline void store_terms(T* to, Vec<T> terms, int64_t rest) {
  if (rest == 0) {
    store(to, terms);
  } else {
    store_some(to, terms, rest);
  }
}

template <typename T>
inline Vec<T> load_terms(const T* from, int64_t rest) {
  return rest == 0 ? load(from) : load_some(from, rest);
}

// Runs f(first term, rest) for all vectors of terms.
template <typename T, typename F>
inline void for_each_vector(int64_t terms, const F& f) {
  for (int64_t i = 0; i < terms; i += kLanes<T>) f(i, terms - i < kLanes<T> ? terms - i : 0);
}

template <typename T>
void products_by_z(const Products<T>& of, const T* grad, const T* weight, T* grad_z) {
  constexpr int together = 4;
  for_each_vector<T>(of.terms, [&](int64_t i, int64_t rest) {
    for (int64_t p = 0; p < of.pixels; p += together) {
      const int64_t here = of.pixels - p < together ? of.pixels - p : together;
      Vec<T> total[together] = {};
      for (int64_t o = 0; o < of.outputs; ++o) {
        const Vec<T> w = load_terms(weight + o * of.weight_step + i, rest);
        const T* of_pixel = grad + o * of.output_step + p;
        if (here == together) {
          MMDK_UNROLL
          for (int q = 0; q < together; ++q) total[q] += of_pixel[q] * w;
        } else {
          for (int64_t q = 0; q < here; ++q) total[q] += of_pixel[q] * w;
        }
      }
      for (int64_t q = 0; q < here; ++q) {
        store_terms<T>(grad_z + (p + q) * of.z_step + i, total[q], rest);
      }
    }
  });
}

template <typename T>
void products_by_weight(const Products<T>& of, const T* z, const T* grad, T* grad_weight) {
  constexpr int together = 4;
  for_each_vector<T>(of.terms, [&](int64_t i, int64_t rest) {
    for (int64_t o = 0; o < of.outputs; o += together) {
      const int64_t here = of.outputs - o < together ? of.outputs - o : together;
      Vec<T> total[together] = {};
      for (int64_t p = 0; p < of.pixels; ++p) {
        const Vec<T> term = load_terms(z + p * of.z_step + i, rest);
        const T* of_pixel = grad + o * of.output_step + p;
        if (here == together) {
          MMDK_UNROLL
          for (int q = 0; q < together; ++q) total[q] += of_pixel[q * of.output_step] * term;
        } else {
          for (int64_t q = 0; q < here; ++q) total[q] += of_pixel[q * of.output_step] * term;
        }
      }
      for (int64_t q = 0; q < here; ++q) {
        T* place = grad_weight + (o + q) * of.weight_step + i;
        total[q] += load_terms(place, rest);
        store_terms<T>(place, total[q], rest);
      }
    }
  });
}
