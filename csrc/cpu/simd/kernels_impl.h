// The definitions behind kernels.h, for one instruction set: an including file sets its target,
// defines MMDK_SIMD_NAME and MMDK_VECTOR_BYTES, and includes this once.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cpu/simd/kernels.h"

namespace mmdk::cpu::simd {
namespace MMDK_SIMD_NAME {
namespace {

#include "cpu/simd/vectors.h"
// One concept a file, in the order they need each other.
#include "cpu/simd/storage.h"
//
#include "cpu/simd/copies.h"
//
#include "cpu/simd/plans.h"
//
#include "cpu/simd/depthwise.h"
//
#include "cpu/simd/tiles.h"
//
#include "cpu/simd/products.h"
//
#include "cpu/simd/images.h"
//
#include "cpu/simd/rows.h"

}  // namespace

template <typename T>
const Kernels<T>& kernels() {
  static const Kernels<T> table{load_numbers<T>,
                                store_numbers<T>,
                                plan_lookups<T>,
                                depthwise_forward<T>,
                                rigid_forward<T>,
                                depthwise_backward<T>,
                                rigid_backward<T>,
                                spread_plan<T>,
                                sample_tile<T>,
                                collect_tile<T>,
                                sample_tile_backward<T>,
                                collect_tile_backward<T>,
                                products<T>,
                                products_by_z<T>,
                                products_by_weight<T>,
                                sample_image<T>,
                                scatter_image<T>,
                                image_gradients<T>,
                                add_pixels<T>,
                                gather<T>,
                                scatter<T>,
                                dots<T>};
  return table;
}

template const Kernels<float>& kernels<float>();
template const Kernels<double>& kernels<double>();

}  // namespace MMDK_SIMD_NAME
}  // namespace mmdk::cpu::simd
