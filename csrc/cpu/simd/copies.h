// Numbers from tensors into buffers and back: any strides, any storage. Included by kernels_impl.h
// inside its namespace; see there.

template <Storage STORAGE, typename T>
struct Loading {
  using From = typename Stored<STORAGE, T>::type;
  using To = T;
  static Vec<T> load_vector(const From* from) { return load_stored<STORAGE, T>(from); }
  static void store_vector(To* to, Vec<T> vector) { store(to, vector); }
  static To convert(From number) { return from_stored<STORAGE, T>(number); }
};

template <Storage STORAGE, typename T>
struct Storing {
  using From = T;
  using To = typename Stored<STORAGE, T>::type;
  static Vec<T> load_vector(const From* from) { return load(from); }
  static void store_vector(To* to, Vec<T> vector) { store_stored<STORAGE, T>(to, vector); }
  static To convert(From number) { return to_stored<STORAGE, T>(number); }
};

template <typename Side>
struct Matrix {
  Side* data;
  int64_t row_stride, column_stride;
};

constexpr int64_t kRowsAhead = 8;

template <bool WRITE, typename Number>
inline void prefetch_row(const Number* row, int64_t columns) {
  for (int64_t i = 0; i < columns; i += 64 / static_cast<int64_t>(sizeof(Number))) {
    __builtin_prefetch(row + i, WRITE);
  }
}

template <typename Copy, typename T>
void copy_rows(const Matrix<typename Copy::To>& to, const Matrix<const typename Copy::From>& from,
               int64_t rows, int64_t columns) {
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t row = 0; row < rows; ++row) {
    const auto* source = from.data + row * from.row_stride;
    auto* target = to.data + row * to.row_stride;
    // Rows far from one another are nothing that a processor foresees.
    prefetch_row<false>(source + kRowsAhead * from.row_stride, columns);
    prefetch_row<true>(target + kRowsAhead * to.row_stride, columns);
    int64_t i = 0;
    for (; i + lanes <= columns; i += lanes) {
      Copy::store_vector(target + i, Copy::load_vector(source + i));
    }
    for (; i < columns; ++i) target[i] = Copy::convert(source[i]);
  }
}

template <typename Copy>
void copy_any(const Matrix<typename Copy::To>& to, const Matrix<const typename Copy::From>& from,
              int64_t rows, int64_t columns) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      to.data[row * to.row_stride + column * to.column_stride] =
          Copy::convert(from.data[row * from.row_stride + column * from.column_stride]);
    }
  }
}

// Up to kLanes rows and columns, from rows side by side to columns side by side.
template <typename Copy, typename T>
inline void copy_block_transposed(const Matrix<typename Copy::To>& to,
                                  const Matrix<const typename Copy::From>& from, int64_t rows,
                                  int64_t columns) {
  constexpr int64_t lanes = kLanes<T>;
  Vec<T> block[lanes] = {};
  if (rows == lanes && columns == lanes) {
    for (int64_t i = 0; i < lanes; ++i) {
      block[i] = Copy::load_vector(from.data + i * from.column_stride);
    }
    transpose<T>(block);
    for (int64_t i = 0; i < lanes; ++i) Copy::store_vector(to.data + i * to.row_stride, block[i]);
    return;
  }
  // Reading or writing whole vectors would go beyond the ends.
  typename Copy::From in[lanes] = {};
  typename Copy::To out[lanes];
  for (int64_t i = 0; i < columns; ++i) {
    std::memcpy(in, from.data + i * from.column_stride, rows * sizeof(*in));
    block[i] = Copy::load_vector(in);
  }
  transpose<T>(block);
  for (int64_t i = 0; i < rows; ++i) {
    Copy::store_vector(out, block[i]);
    std::memcpy(to.data + i * to.row_stride, out, columns * sizeof(*out));
  }
}

template <typename Copy, typename T>
void copy_transposed(const Matrix<typename Copy::To>& to,
                     const Matrix<const typename Copy::From>& from, int64_t rows, int64_t columns) {
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t row = 0; row < rows; row += lanes) {
    const int64_t rows_here = rows - row < lanes ? rows - row : lanes;
    for (int64_t column = 0; column < columns; column += lanes) {
      const int64_t columns_here = columns - column < lanes ? columns - column : lanes;
      copy_block_transposed<Copy, T>(
          {to.data + row * to.row_stride + column, to.row_stride, 1},
          {from.data + row + column * from.column_stride, 1, from.column_stride}, rows_here,
          columns_here);
    }
  }
}

template <typename Copy, typename T>
void copy(Matrix<typename Copy::To> to, Matrix<const typename Copy::From> from, int64_t rows,
          int64_t columns) {
  if (from.row_stride == 1 && from.column_stride != 1) {
    // Nearer together on the side that is read: rows and columns change names.
    copy<Copy, T>({to.data, to.column_stride, to.row_stride},
                  {from.data, from.column_stride, from.row_stride}, columns, rows);
  } else if (from.column_stride == 1 && to.column_stride == 1) {
    copy_rows<Copy, T>(to, from, rows, columns);
  } else if (from.column_stride == 1 && to.row_stride == 1) {
    copy_transposed<Copy, T>({to.data, to.column_stride, to.row_stride},
                             {from.data, from.column_stride, from.row_stride}, columns, rows);
  } else {
    copy_any<Copy>(to, from, rows, columns);
  }
}

template <Storage STORAGE, typename T>
void load_as(T* to, int64_t pixel_stride, int64_t channel_stride, const Numbers<const void>& from,
             int64_t pixels, int64_t channels) {
  using Copy = Loading<STORAGE, T>;
  copy<Copy, T>(
      {to, pixel_stride, channel_stride},
      {static_cast<const typename Copy::From*>(from.data), from.pixel_stride, from.channel_stride},
      pixels, channels);
}

template <Storage STORAGE, typename T>
void store_as(const Numbers<void>& to, const T* from, int64_t pixel_stride, int64_t channel_stride,
              int64_t pixels, int64_t channels) {
  using Copy = Storing<STORAGE, T>;
  copy<Copy, T>({static_cast<typename Copy::To*>(to.data), to.pixel_stride, to.channel_stride},
                {from, pixel_stride, channel_stride}, pixels, channels);
}

template <typename T>
void load_numbers(T* to, int64_t pixel_stride, int64_t channel_stride,
                  const Numbers<const void>& from, int64_t pixels, int64_t channels) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (from.storage == Storage::kHalf) {
      return load_as<Storage::kHalf>(to, pixel_stride, channel_stride, from, pixels, channels);
    }
    if (from.storage == Storage::kBFloat16) {
      return load_as<Storage::kBFloat16>(to, pixel_stride, channel_stride, from, pixels, channels);
    }
  }
  load_as<Storage::kSame>(to, pixel_stride, channel_stride, from, pixels, channels);
}

template <typename T>
void store_numbers(const Numbers<void>& to, const T* from, int64_t pixel_stride,
                   int64_t channel_stride, int64_t pixels, int64_t channels) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (to.storage == Storage::kHalf) {
      return store_as<Storage::kHalf>(to, from, pixel_stride, channel_stride, pixels, channels);
    }
    if (to.storage == Storage::kBFloat16) {
      return store_as<Storage::kBFloat16>(to, from, pixel_stride, channel_stride, pixels, channels);
    }
  }
  store_as<Storage::kSame>(to, from, pixel_stride, channel_stride, pixels, channels);
}
