// Memory that starts at a cache line: a vector that straddles two lines costs twice.
#pragma once

#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstdint>

namespace mmdk::cpu {

template <typename T>
class AlignedBuffer {
 public:
  // All zero.
  explicit AlignedBuffer(int64_t size)
      : memory_(c10::GetCPUAllocator()->allocate(size * sizeof(T))) {
    std::fill_n(data(), size, T(0));
  }

  T* data() const { return static_cast<T*>(memory_.get()); }
  T& operator[](int64_t i) const { return data()[i]; }

 private:
  c10::DataPtr memory_;
};

}  // namespace mmdk::cpu
