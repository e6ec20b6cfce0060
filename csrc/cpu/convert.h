// Between what memory holds (float32, float64, bfloat16, float16) and what is computed with (float, double).
#pragma once

#include <type_traits>

#include "simd.h"

#include "../layer.h"

namespace SKREG_ARITHMETIC {

using skreg::Dtype;
using skreg::Operand;

struct BFloat16 {
  uint16_t bits;
  SKREG_INLINE operator float() const {
    const uint32_t wide = uint32_t(bits) << 16;
    float result;
    std::memcpy(&result, &wide, sizeof result);
    return result;
  }
  static SKREG_INLINE BFloat16 from(float x) { // to nearest, ties to even; nan stays nan
    uint32_t wide;
    std::memcpy(&wide, &x, sizeof wide);
    const uint32_t rounded = (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
    return {uint16_t(x == x ? rounded : 0x7fc0)};
  }
};

struct Float16 {
  uint16_t bits;
  SKREG_INLINE operator float() const { return half_to_float(bits); }
  static SKREG_INLINE Float16 from(float x) { return {float_to_half(x)}; }
};

template <class M, class S> SKREG_INLINE M to_memory(S x) {
  if constexpr (std::is_floating_point_v<M>)
    return M(x);
  else
    return M::from(float(x));
}

template <class S> constexpr Dtype dtype_of() { return std::is_same_v<S, double> ? Dtype::float64 : Dtype::float32; }

// Calls f with a pointer of the operand's type, at element `at`.
template <class F> SKREG_INLINE void with_type(const Operand &o, int64_t at, F &&f) {
  switch (o.dtype) {
  case Dtype::float32:
    return f(reinterpret_cast<float *>(o.data) + at);
  case Dtype::float64:
    return f(reinterpret_cast<double *>(o.data) + at);
  case Dtype::bfloat16:
    return f(reinterpret_cast<BFloat16 *>(o.data) + at);
  case Dtype::float16:
    return f(reinterpret_cast<Float16 *>(o.data) + at);
  }
}

template <class S> void widen(const Operand &from, int64_t at, int64_t n, S *to) {
  with_type(from, at, [&](auto *p) {
    for (int64_t i = 0; i < n; i++)
      to[i] = S(p[i]);
  });
}

// Around the caches: the line is not read before it is written. Other threads see it after stream_fence().
template <class S> void stream_out(const S *from, int64_t n, S *to) {
  int64_t i = 0;
#ifdef SKREG_STREAM_STORE
  using Types = VectorOf<S>;
  while (i < n && reinterpret_cast<uintptr_t>(to + i) % SKREG_VECTOR_BYTES) {
    to[i] = from[i];
    i++;
  }
  for (; i + Types::width <= n; i += Types::width)
    SKREG_STREAM_STORE(to + i, *reinterpret_cast<const typename Types::anywhere *>(from + i));
#endif
  for (; i < n; i++)
    to[i] = from[i];
}

inline void stream_fence() {
#ifdef SKREG_STREAM_STORE
  _mm_sfence();
#endif
}

template <class S> void narrow(const S *from, const Operand &to, int64_t at, int64_t n, bool add, bool stream) {
  if (stream && !add && to.dtype == dtype_of<S>())
    return stream_out(from, n, reinterpret_cast<S *>(to.data) + at);
  with_type(to, at, [&](auto *p) {
    using M = std::remove_reference_t<decltype(*p)>;
    if (add)
      for (int64_t i = 0; i < n; i++)
        p[i] = to_memory<M>(S(p[i]) + from[i]);
    else
      for (int64_t i = 0; i < n; i++)
        p[i] = to_memory<M>(from[i]);
  });
}

// Out of line on purpose: inlined for every position and dtype they would be most of the binary.
template <class S> __attribute__((noinline)) void gather(const Operand &o, int64_t at, int active, S *lanes) {
  constexpr int width = VectorOf<S>::width;
  with_type(o, at, [&](auto *p) {
    if (o.inner_stride == 1 && active == width)
      for (int i = 0; i < width; i++)
        lanes[i] = S(p[i]);
    else
      for (int i = 0; i < width; i++)
        lanes[i] = i < active ? S(p[i * o.inner_stride]) : S(0);
  });
}
template <class S>
__attribute__((noinline)) void scatter(const S *lanes, const Operand &o, int64_t at, int active, bool add) {
  with_type(o, at, [&](auto *p) {
    using M = std::remove_reference_t<decltype(*p)>;
    const int64_t stride = o.inner_stride;
    for (int i = 0; i < active; i++)
      p[i * stride] = to_memory<M>(add ? S(p[i * stride]) + lanes[i] : lanes[i]);
  });
}

// One element of each of `active` neighbouring kernels; the other lanes are 0.
template <class Vector> SKREG_INLINE Vector load_lanes(const Operand &o, int64_t at, int active) {
  using S = std::remove_cv_t<std::remove_reference_t<decltype(Vector{}[0])>>;
  constexpr int width = VectorOf<S>::width;
  if (o.inner_stride == 1 && active == width && o.dtype == dtype_of<S>())
    return *reinterpret_cast<const typename VectorOf<S>::anywhere *>(reinterpret_cast<const S *>(o.data) + at);
  Vector result;
  gather<S>(o, at, active, reinterpret_cast<S *>(&result));
  return result;
}

template <class Vector> SKREG_INLINE void store_lanes(Vector v, const Operand &o, int64_t at, int active, bool add) {
  using S = std::remove_cv_t<std::remove_reference_t<decltype(v[0])>>;
  constexpr int width = VectorOf<S>::width;
  if (o.inner_stride == 1 && active == width && o.dtype == dtype_of<S>()) {
    auto *p = reinterpret_cast<typename VectorOf<S>::anywhere *>(reinterpret_cast<S *>(o.data) + at);
    *p = add ? *p + v : v;
  } else {
    scatter<S>(reinterpret_cast<const S *>(&v), o, at, active, add);
  }
}

} // namespace SKREG_ARITHMETIC
