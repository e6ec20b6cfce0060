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

template <class M, class S> SKREG_INLINE void widen_block(const M *p, int64_t n, S *to) {
  int64_t i = 0;
#ifdef SKREG_HALVES
  if constexpr (std::is_same_v<M, Float16> && std::is_same_v<S, float>)
    for (; i + SKREG_HALVES <= n; i += SKREG_HALVES)
      halves_to_floats(&p[i].bits, to + i);
#endif
  for (; i < n; i++)
    to[i] = S(p[i]);
}

template <class S> void widen(const Operand &from, int64_t at, int64_t n, S *to) {
  constexpr int64_t block = 256;
  with_type(from, at, [&](auto *p) {
    for (int64_t i = 0; i < n; i += block) {
      const int64_t count = n - i < block ? n - i : block;
      prefetch_ahead(p + i, count * int64_t(sizeof(*p)));
      widen_block(p + i, count, to + i);
    }
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

// A whole vector of results: over what is there, around the caches (then it has to be aligned), or added.
enum class Output { write, stream, add };
SKREG_INLINE bool is_vector_aligned(const void *p) { return reinterpret_cast<uintptr_t>(p) % SKREG_VECTOR_BYTES == 0; }
template <Output output, class V, class S> SKREG_INLINE void put(S *to, V v) {
  auto *p = reinterpret_cast<typename VectorOf<S>::anywhere *>(to);
#ifdef SKREG_STREAM_STORE
  if constexpr (output == Output::stream)
    return SKREG_STREAM_STORE(to, v);
#endif
  *p = output == Output::add ? *p + v : v;
}

// Two vectors of floats as one of bfloat16, rounded as `BFloat16::from` rounds.
SKREG_INLINE FloatVector rounded_to_bfloats(FloatVector x) {
  typedef uint32_t Words __attribute__((vector_size(SKREG_VECTOR_BYTES)));
  const Words bits = (Words)x;
  const FloatVector rounded = (FloatVector)(bits + 0x7fff + (bits >> 16 & 1));
  return select(x == x, rounded, (FloatVector)(Words{} + 0x7fc00000));
}
template <int... I>
SKREG_INLINE FloatVector to_bfloats(FloatVector x, FloatVector y, std::integer_sequence<int, I...>) {
  typedef uint16_t Halves __attribute__((vector_size(SKREG_VECTOR_BYTES)));
  const Halves a = (Halves)rounded_to_bfloats(x), b = (Halves)rounded_to_bfloats(y);
  return (FloatVector)SKREG_SHUFFLE(Halves, a, b, (2 * I + 1)...); // the upper half of every word
}
// As many as fill whole vectors; returns how many.
template <Output output> int64_t write_bfloats(const float *from, int64_t n, BFloat16 *to) {
  using Types = VectorOf<float>;
  constexpr int64_t step = 2 * Types::width;
  int64_t i = 0;
  for (; i + step <= n; i += step) {
    const auto *p = reinterpret_cast<const Types::anywhere *>(from + i);
    const FloatVector x = p[0], y = *reinterpret_cast<const Types::anywhere *>(from + i + Types::width);
    put<output>(reinterpret_cast<float *>(to + i), to_bfloats(x, y, std::make_integer_sequence<int, int(step)>{}));
  }
  return i;
}

template <class S> void narrow(const S *from, const Operand &to, int64_t at, int64_t n, bool add, bool stream) {
  if (stream && !add && to.dtype == dtype_of<S>())
    return stream_out(from, n, reinterpret_cast<S *>(to.data) + at);
  with_type(to, at, [&](auto *p) {
    using M = std::remove_reference_t<decltype(*p)>;
    int64_t i = 0;
    if constexpr (std::is_same_v<M, BFloat16> && std::is_same_v<S, float>)
      if (!add)
        i = stream && is_vector_aligned(p) ? write_bfloats<Output::stream>(from, n, p)
                                           : write_bfloats<Output::write>(from, n, p);
#ifdef SKREG_HALVES
    if constexpr (std::is_same_v<M, Float16> && std::is_same_v<S, float>)
      for (; i + SKREG_HALVES <= n; i += SKREG_HALVES) {
        float sum[SKREG_HALVES] = {};
        if (add)
          halves_to_floats(&p[i].bits, sum);
        for (int j = 0; j < SKREG_HALVES; j++)
          sum[j] = add ? sum[j] + from[i + j] : from[i + j];
        floats_to_halves(sum, &p[i].bits);
      }
#endif
    if (add)
      for (; i < n; i++)
        p[i] = to_memory<M>(S(p[i]) + from[i]);
    else
      for (; i < n; i++)
        p[i] = to_memory<M>(from[i]);
  });
}

// The same for elements that lie `inner_stride` apart.
template <class S> void widen_run(const Operand &from, int64_t at, int64_t n, S *to) {
  if (from.inner_stride == 1)
    return widen(from, at, n, to);
  with_type(from, at, [&](auto *p) {
    for (int64_t i = 0; i < n; i++)
      to[i] = S(p[i * from.inner_stride]);
  });
}

template <class S> void narrow_run(const S *from, const Operand &to, int64_t at, int64_t n, bool add, bool stream) {
  if (to.inner_stride == 1)
    return narrow(from, to, at, n, add, stream);
  with_type(to, at, [&](auto *p) {
    using M = std::remove_reference_t<decltype(*p)>;
    for (int64_t i = 0; i < n; i++) {
      M &element = p[i * to.inner_stride];
      element = to_memory<M>(add ? S(element) + from[i] : from[i]);
    }
  });
}

} // namespace SKREG_ARITHMETIC
