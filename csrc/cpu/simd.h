// SIMD vectors by the compilers' vector extension, at the width of the level that is being compiled.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "../inline.h"

namespace SKREG_ARITHMETIC {

template <class S> struct VectorOf {
  // Work goes by groups of 4.
  static constexpr int bytes = SKREG_VECTOR_BYTES < 4 * sizeof(S) ? 4 * sizeof(S) : SKREG_VECTOR_BYTES;
  static constexpr int width = bytes / sizeof(S);
  typedef S type __attribute__((vector_size(bytes)));
  typedef S quad __attribute__((vector_size(4 * sizeof(S))));
  typedef S quad_anywhere __attribute__((vector_size(4 * sizeof(S)), aligned(alignof(S)), may_alias));
  typedef S anywhere __attribute__((vector_size(bytes), aligned(alignof(S)), may_alias));
};
using FloatVector = VectorOf<float>::type;
using DoubleVector = VectorOf<double>::type;

// Asks for the memory 4 KB behind these bytes: it takes about as long to arrive as the kernels before it to be
// computed. Processors foresee a stream as well, but stop where the arithmetic pauses their reading.
SKREG_INLINE void prefetch_ahead(const void *p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64)
    __builtin_prefetch(static_cast<const char *>(p) + 4096 + i);
}

template <class M> SKREG_INLINE FloatVector select(M m, FloatVector x, FloatVector y) { return m ? x : y; }
template <class M> SKREG_INLINE DoubleVector select(M m, DoubleVector x, DoubleVector y) { return m ? x : y; }

// min and max that hand a nan in x on.
SKREG_INLINE FloatVector at_most(FloatVector limit, FloatVector x) {
#ifdef SKREG_MIN
  return SKREG_MIN(limit, x);
#else
  return select(limit < x, limit, x);
#endif
}
SKREG_INLINE FloatVector at_least(FloatVector limit, FloatVector x) {
#ifdef SKREG_MAX
  return SKREG_MAX(limit, x);
#else
  return select(limit > x, limit, x);
#endif
}

// exp to about one unit in the last place: 2^n * exp(r), |r| <= log(2) / 2, with the right limits and nan.
SKREG_INLINE FloatVector exponential_function(FloatVector x) {
  typedef int32_t Ints __attribute__((vector_size(SKREG_VECTOR_BYTES)));
  const FloatVector zero{};
  const FloatVector s = at_least(zero - 104.0f, at_most(zero + 89.0f, x));
  const FloatVector magic = zero + 12582912.0f; // 1.5 * 2^23: adding it rounds to an integer
  const FloatVector shifted = s * 1.44269504088896341f + magic;
  const FloatVector n = shifted - magic;
  const FloatVector r = (s - n * 0.693359375f) + n * 2.12194440e-4f;
  FloatVector p = zero + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^n in two factors, because n reaches past what one exponent holds. The low bits of `shifted` are n; where it is
  // nan, they are anything, and p is nan.
  Ints exponent, bits_magic;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  std::memcpy(&bits_magic, &magic, sizeof bits_magic);
  exponent -= bits_magic;
  const Ints half = exponent >> 1;
  const Ints bits_a = (half + 127) << 23, bits_b = (exponent - half + 127) << 23;
  FloatVector a, b;
  std::memcpy(&a, &bits_a, sizeof a);
  std::memcpy(&b, &bits_b, sizeof b);
  return p * a * b;
}

SKREG_INLINE DoubleVector exponential_function(DoubleVector x) {
  for (int i = 0; i < VectorOf<double>::width; i++)
    x[i] = std::exp(x[i]);
  return x;
}

#if defined(__clang__) || __GNUC__ >= 12
#define SKREG_SHUFFLE(V, x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#error "skreg's native operator needs GCC 12 or later, or clang"
#endif

// Four vectors whose 4-element groups are the rows of 4x4 blocks, transposed group by group.
template <class V, int... I> SKREG_INLINE V low_pairs(V x, V y, std::integer_sequence<int, I...>) {
  constexpr int width = sizeof...(I);
  return SKREG_SHUFFLE(V, x, y, (I / 4 * 4 + I % 4 / 2 + (I % 2) * width)...);
}
template <class V, int... I> SKREG_INLINE V high_pairs(V x, V y, std::integer_sequence<int, I...>) {
  constexpr int width = sizeof...(I);
  return SKREG_SHUFFLE(V, x, y, (I / 4 * 4 + 2 + I % 4 / 2 + (I % 2) * width)...);
}
template <class V, int... I> SKREG_INLINE V low_halves(V x, V y, std::integer_sequence<int, I...>) {
  constexpr int width = sizeof...(I);
  return SKREG_SHUFFLE(V, x, y, (I / 4 * 4 + I % 2 + (I % 4 / 2) * width)...);
}
template <class V, int... I> SKREG_INLINE V high_halves(V x, V y, std::integer_sequence<int, I...>) {
  constexpr int width = sizeof...(I);
  return SKREG_SHUFFLE(V, x, y, (I / 4 * 4 + 2 + I % 2 + (I % 4 / 2) * width)...);
}
template <class V> SKREG_INLINE void transpose_groups(V &r0, V &r1, V &r2, V &r3) {
  using Lanes = std::make_integer_sequence<int, sizeof(V) / sizeof(r0[0])>;
  const V a = low_pairs(r0, r1, Lanes{}), b = high_pairs(r0, r1, Lanes{});
  const V c = low_pairs(r2, r3, Lanes{}), d = high_pairs(r2, r3, Lanes{});
  r0 = low_halves(a, c, Lanes{});
  r1 = high_halves(a, c, Lanes{});
  r2 = low_halves(b, d, Lanes{});
  r3 = high_halves(b, d, Lanes{});
}

// Joins and cuts of vectors in registers: through memory they would stall on the store before.
template <class Half, int... I> SKREG_INLINE auto join(Half x, Half y, std::integer_sequence<int, I...>) {
  return SKREG_SHUFFLE(Half, x, y, I...);
}
template <int First, class V, int... I> SKREG_INLINE auto cut(V v, std::integer_sequence<int, I...>) {
  return SKREG_SHUFFLE(V, v, v, (First + I)...);
}

// Lane group g of the result: the four elements at `p + 4 * g * stride`.
template <class S> SKREG_INLINE typename VectorOf<S>::type load_groups(const S *p, int64_t stride) {
  using Types = VectorOf<S>;
  const auto part = [&](int g) ->
      typename Types::quad { return *reinterpret_cast<const typename Types::quad_anywhere *>(p + 4 * g * stride); };
  constexpr std::make_integer_sequence<int, 8> eight{};
  if constexpr (Types::width == 4)
    return part(0);
  else if constexpr (Types::width == 8)
    return join(part(0), part(1), eight);
  else
    return join(join(part(0), part(1), eight), join(part(2), part(3), eight), std::make_integer_sequence<int, 16>{});
}
template <int Group, class S> SKREG_INLINE void store_group(typename VectorOf<S>::type v, S *p, int64_t stride) {
  using Quad = typename VectorOf<S>::quad_anywhere;
  *reinterpret_cast<Quad *>(p + 4 * Group * stride) = cut<4 * Group>(v, std::make_integer_sequence<int, 4>{});
}
template <class S> SKREG_INLINE void store_groups(typename VectorOf<S>::type v, S *p, int64_t stride) {
  constexpr int width = VectorOf<S>::width;
  store_group<0, S>(v, p, stride);
  if constexpr (width >= 8)
    store_group<1, S>(v, p, stride);
  if constexpr (width >= 16) {
    store_group<2, S>(v, p, stride);
    store_group<3, S>(v, p, stride);
  }
}

} // namespace SKREG_ARITHMETIC
