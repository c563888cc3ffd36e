// Half types as they are stored, to and from float, one number or a vector at a time. Included by
// kernels_impl.h inside its namespace; see there.

template <Storage STORAGE, typename T>
struct Stored {
  using type = uint16_t;
};
template <typename T>
struct Stored<Storage::kSame, T> {
  using type = T;
};

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float half_to_float(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 0x1f;
  const uint32_t fraction = half & 0x3ff;
  if (exponent == 0x1f) return bits_to_float(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return bits_to_float(sign | (exponent + 112) << 23 | fraction << 13);
}

// To nearest, ties to even.
inline uint16_t float_to_half(float value) {
  const uint32_t bits = float_to_bits(value), sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    // Subnormal: adding a power of two lets the addition do the rounding.
    const uint32_t rounded = float_to_bits(bits_to_float(magnitude) + 0.5f) - float_to_bits(0.5f);
    return static_cast<uint16_t>(sign | rounded);
  }
  const uint32_t even = magnitude >> 13 & 1;
  return static_cast<uint16_t>(sign | (magnitude - 0x38000000u + 0xfffu + even) >> 13);
}

inline float bfloat16_to_float(uint16_t half) {
  return bits_to_float(static_cast<uint32_t>(half) << 16);
}

inline uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

template <Storage STORAGE, typename T>
inline T from_stored(typename Stored<STORAGE, T>::type number) {
  if constexpr (STORAGE == Storage::kSame) {
    return number;
  } else if constexpr (STORAGE == Storage::kHalf) {
    return half_to_float(number);
  } else {
    return bfloat16_to_float(number);
  }
}

template <Storage STORAGE, typename T>
inline typename Stored<STORAGE, T>::type to_stored(T number) {
  if constexpr (STORAGE == Storage::kSame) {
    return number;
  } else if constexpr (STORAGE == Storage::kHalf) {
    return float_to_half(number);
  } else {
    return float_to_bfloat16(number);
  }
}

typedef uint32_t Bits __attribute__((vector_size(MMDK_VECTOR_BYTES)));
typedef uint16_t HalfBits __attribute__((vector_size(MMDK_VECTOR_BYTES / 2)));

inline Vec<float> load_bfloat16(const uint16_t* from) {
  HalfBits halves;
  std::memcpy(&halves, from, sizeof(halves));
  return reinterpret_cast<Vec<float>>(__builtin_convertvector(halves, Bits) << 16);
}

inline void store_bfloat16(uint16_t* to, Vec<float> vector) {
  const Bits bits = reinterpret_cast<Bits>(vector);
  const Bits rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  const Bits nan = bits >> 16 | 0x40u;
  const HalfBits halves =
      __builtin_convertvector((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded, HalfBits);
  std::memcpy(to, &halves, sizeof(halves));
}

template <Storage STORAGE, typename T>
inline Vec<T> load_stored(const typename Stored<STORAGE, T>::type* from) {
  if constexpr (STORAGE == Storage::kSame) {
    return load(from);
  } else if constexpr (STORAGE == Storage::kBFloat16) {
    return load_bfloat16(from);
#if MMDK_VECTOR_BYTES == 64
  } else if constexpr (STORAGE == Storage::kHalf) {
    return reinterpret_cast<Vec<T>>(
        _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif MMDK_VECTOR_BYTES == 32
  } else if constexpr (STORAGE == Storage::kHalf) {
    return reinterpret_cast<Vec<T>>(
        _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#endif
  } else {
    Vec<T> vector;
    for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
      vector[lane] = from_stored<STORAGE, T>(from[lane]);
    }
    return vector;
  }
}

template <Storage STORAGE, typename T>
inline void store_stored(typename Stored<STORAGE, T>::type* to, Vec<T> vector) {
  if constexpr (STORAGE == Storage::kSame) {
    store(to, vector);
  } else if constexpr (STORAGE == Storage::kBFloat16) {
    store_bfloat16(to, vector);
#if MMDK_VECTOR_BYTES == 64
  } else if constexpr (STORAGE == Storage::kHalf) {
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(to),
        _mm512_maskz_cvtps_ph(0xffff, reinterpret_cast<__m512>(vector), _MM_FROUND_TO_NEAREST_INT));
#elif MMDK_VECTOR_BYTES == 32
  } else if constexpr (STORAGE == Storage::kHalf) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm256_cvtps_ph(reinterpret_cast<__m256>(vector), _MM_FROUND_TO_NEAREST_INT));
#endif
  } else {
    for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
      to[lane] = to_stored<STORAGE, T>(vector[lane]);
    }
  }
}
