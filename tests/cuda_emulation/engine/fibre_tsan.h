// Tells ThreadSanitizer, where kernels are compiled for it, that fibres are threads, and what
// orders them. Otherwise nothing.
#pragma once

#if defined(EMULATION_THREAD_SANITIZER)
extern "C" {
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void* __tsan_get_current_fiber();
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif

namespace emulation {

#if defined(EMULATION_THREAD_SANITIZER)

class SanitizedFibre {
 public:
  void create() {
    fiber_ = __tsan_create_fiber(0);
    __tsan_release(&started_);
    fresh_ = true;
  }
  void destroy() { __tsan_destroy_fiber(fiber_); }
  void adopt() { fiber_ = __tsan_get_current_fiber(); }
  // Without ordering what the fibres do: their own barriers do that.
  void enter() {
    constexpr unsigned unordered = 1;
    __tsan_switch_to_fiber(fiber_, unordered);
    if (fresh_) __tsan_acquire(&started_);
    fresh_ = false;
  }

 private:
  void* fiber_ = nullptr;
  char started_ = 0;
  bool fresh_ = false;
};

class SanitizedOrder {
 public:
  void release() { __tsan_release(this); }
  void acquire() { __tsan_acquire(this); }

 private:
  char unused_ = 0;
};

#else

class SanitizedFibre {
 public:
  void create() {}
  void destroy() {}
  void adopt() {}
  void enter() {}
};

class SanitizedOrder {
 public:
  void release() {}
  void acquire() {}
};

#endif

}  // namespace emulation
