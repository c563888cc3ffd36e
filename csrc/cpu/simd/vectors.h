// Vectors of one instruction set: the compiler's own (GCC and Clang vector extensions), so that
// there is one source for all machines. Included by kernels_impl.h inside its namespace; see there.

// Before a loop over registers: an array that is indexed by a loop that stays one lies in memory.
#define MMDK_UNROLL _Pragma("GCC unroll 16")

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
inline void store(T* to, const V& vector) {
  std::memcpy(to, &vector, sizeof(vector));
}

template <typename T>
inline Vec<T> broadcast(T value) {
  return value - Vec<T>{};
}

// The first `count` lanes, the others zero.
template <typename T>
inline Vec<T> load_some(const T* from, int64_t count) {
  Vec<T> vector{};
  std::memcpy(&vector, from, count * sizeof(T));
  return vector;
}

template <typename T, typename V>
inline void store_some(T* to, V vector, int64_t count) {
  std::memcpy(to, &vector, count * sizeof(T));
}

// Lanes of a (from 0) and b (from kLanes), chosen by a function of the lane they go to.
template <typename Choose, typename V, int... I>
inline V choose_lanes(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, Choose::lane(I)...);
}

template <typename T, typename Choose>
inline Vec<T> choose(Vec<T> a, Vec<T> b) {
  return choose_lanes<Choose>(a, b, std::make_integer_sequence<int, static_cast<int>(kLanes<T>)>{});
}

// The lower (PART 0) or upper (PART 1) halves of the blocks that `a`, then `b`, consist of.
template <int LANES, int BLOCK, int PART>
struct HalvesOfBlocks {
  static constexpr int lane(int i) {
    constexpr int half = BLOCK / 2;
    return i / half * BLOCK + PART * half + i % half;
  }
};

// Adds up the two halves of each block: blocks half as long, first those of a, then those of b.
template <typename T, int BLOCK>
inline Vec<T> fold(Vec<T> a, Vec<T> b) {
  constexpr int lanes = static_cast<int>(kLanes<T>);
  return choose<T, HalvesOfBlocks<lanes, BLOCK, 0>>(a, b) +
         choose<T, HalvesOfBlocks<lanes, BLOCK, 1>>(a, b);
}

// Every block of `sums` folded until it is one lane, which is the first of each block's place.
template <typename T, int BLOCK>
inline Vec<T> fold_all(Vec<T> sums) {
  if constexpr (BLOCK > 1) {
    return fold_all<T, BLOCK / 2>(fold<T, BLOCK>(sums, sums));
  } else {
    return sums;
  }
}

// to[i] += the sum of the lanes of vectors[i], four of them, in a fixed order with short chains.
template <typename T>
inline void add_sums(Vec<T> a, Vec<T> b, Vec<T> c, Vec<T> d, T* to) {
  constexpr int lanes = static_cast<int>(kLanes<T>);
  const Vec<T> ab = fold<T, lanes>(a, b), cd = fold<T, lanes>(c, d);
  if constexpr (lanes == 2) {
    for (int i = 0; i < 2; ++i) {
      to[i] += ab[i];
      to[2 + i] += cd[i];
    }
  } else {
    // The sums, in order, and again behind them where there is room.
    const Vec<T> sums = fold_all<T, lanes / 4>(fold<T, lanes / 2>(ab, cd));
    typedef T Four __attribute__((vector_size(4 * sizeof(T))));
    Four four, old;
    std::memcpy(&four, &sums, sizeof(four));
    std::memcpy(&old, to, sizeof(old));
    old += four;
    std::memcpy(to, &old, sizeof(old));
  }
}

// One step of a transposition: in each pair of vectors `D` apart, the lanes that are `D` apart
// change places.
template <int D, typename V, int... I>
inline void swap_lanes(V& a, V& b, std::integer_sequence<int, I...>) {
  constexpr int lanes = sizeof...(I);
  const V upper = __builtin_shufflevector(a, b, ((I & D) ? I - D + lanes : I)...);
  b = __builtin_shufflevector(a, b, ((I & D) ? I + lanes : I + D)...);
  a = upper;
}

template <int D, typename T>
inline void transpose_from(Vec<T>* rows) {
  if constexpr (D > 0) {
    for (int i = 0; i < kLanes<T>; ++i) {
      if (!(i & D)) {
        swap_lanes<D>(rows[i], rows[i + D],
                      std::make_integer_sequence<int, static_cast<int>(kLanes<T>)>{});
      }
    }
    transpose_from<D / 2, T>(rows);
  }
}

// kLanes rows of kLanes numbers become columns.
template <typename T>
inline void transpose(Vec<T>* rows) {
  transpose_from<static_cast<int>(kLanes<T> / 2), T>(rows);
}
