// Kernels that lie one after the other, each contiguous: through 4x4 transposes of groups of lanes they become vectors
// of one position each, and back.
#pragma once

#include "simd.h"

#include "../layer.h"

namespace SKREG_ARITHMETIC {

template <class S, class Shape> struct Packed {
  using Vector = typename VectorOf<S>::type;
  static constexpr int width = VectorOf<S>::width;

  // Calls f(c) for the first position of every group of four.
  template <class F> static SKREG_INLINE void for_each_group(const Shape &shape, F &&f) {
    if constexpr (std::is_same_v<Shape, DynamicShape>)
      for (int64_t c = 0; c < shape.size; c += 4)
        f(c);
    else
      unrolled(std::make_integer_sequence<int, (Shape::size + 3) / 4>{},
               [&](auto g) SKREG_INLINE_LAMBDA { f(Index<4 * g.value>{}); });
  }

  // `from` holds `width` kernels of shape.size elements and at least 3 more.
  static SKREG_INLINE void load(const Shape &shape, const S *from, Vector *k) {
    const int64_t n = shape.size;
    for_each_group(shape, [&](auto c) SKREG_INLINE_LAMBDA {
      Vector r0 = load_groups<S>(from + c, n), r1 = load_groups<S>(from + n + c, n);
      Vector r2 = load_groups<S>(from + 2 * n + c, n), r3 = load_groups<S>(from + 3 * n + c, n);
      transpose_groups(r0, r1, r2, r3);
      k[c] = r0;
      if (c + 1 < n)
        k[c + 1] = r1;
      if (c + 2 < n)
        k[c + 2] = r2;
      if (c + 3 < n)
        k[c + 3] = r3;
    });
  }

  static SKREG_INLINE void store(const Shape &shape, const Vector *k, S *to) {
    const int64_t n = shape.size;
    const Vector zero{};
    for_each_group(shape, [&](auto c) SKREG_INLINE_LAMBDA {
      Vector r0 = k[c], r1 = c + 1 < n ? k[c + 1] : zero, r2 = c + 2 < n ? k[c + 2] : zero;
      Vector r3 = c + 3 < n ? k[c + 3] : zero;
      if (c + 1 == n)
        return store_column(r0, to + c, n);
      transpose_groups(r0, r1, r2, r3);
      if (c + 4 <= n) {
        store_groups<S>(r0, to + c, n);
        store_groups<S>(r1, to + n + c, n);
        store_groups<S>(r2, to + 2 * n + c, n);
        store_groups<S>(r3, to + 3 * n + c, n);
      } else {
        store_rest(r0, to + c, n, n - c);
        store_rest(r1, to + n + c, n, n - c);
        store_rest(r2, to + 2 * n + c, n, n - c);
        store_rest(r3, to + 3 * n + c, n, n - c);
      }
    });
  }

  // The first `count` < 4 elements of every group of lanes.
  static SKREG_INLINE void store_rest(Vector r, S *to, int64_t n, int64_t count) {
    for (int g = 0; g < width / 4; g++)
      for (int j = 0; j < count; j++)
        to[4 * g * n + j] = r[4 * g + j];
  }

  static SKREG_INLINE void store_column(Vector r, S *to, int64_t n) {
    for (int i = 0; i < width; i++)
      to[i * n] = r[i];
  }
};

} // namespace SKREG_ARITHMETIC
