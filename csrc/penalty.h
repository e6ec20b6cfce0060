// The arithmetic of one kernel, for the CPU operator (T: a SIMD vector, one kernel a lane) and for the CUDA operator
// (T: float or double, one kernel a thread). docs/method.md derives the formulas.
//
//   D = sum over adjacent pairs of (k_p - k_q)^2      E = sum of k_p^2      S = D - E, D / E or D
//   dS/dk = a L k + b k                               L: the Laplacian of the grid graph, dD/dk = 2 L k
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "inline.h"

namespace skreg {

// Codes as in skreg/options.py.
enum Normalize : int { kSubtract = 0, kDivide = 1, kNoNormalize = 2 };
enum Exponentiate : int { kKernel = 0, kLayer = 1, kNoExponential = 2 };

// A kernel's size with unit dimensions dropped, so that 1x3, 3x1 and a 1-d kernel of 3 are one case.
struct DynamicShape {
  int64_t depth, height, width;
  int connectivity;
  int64_t size;
};

} // namespace skreg

// Each SIMD level compiles this header into a namespace of its own, so that the linker cannot mix their code.
#ifdef SKREG_ARITHMETIC
namespace SKREG_ARITHMETIC {
using skreg::DynamicShape, skreg::kDivide, skreg::kKernel, skreg::kLayer, skreg::kNoNormalize, skreg::kSubtract;
}
#else
#define SKREG_ARITHMETIC skreg
#endif

namespace SKREG_ARITHMETIC {

// The same with a size that the compiler knows.
template <int Depth, int Height, int Width, int Connectivity> struct StaticShape {
  static constexpr int depth = Depth, height = Height, width = Width, connectivity = Connectivity;
  static constexpr int size = Depth * Height * Width;
};

template <int I> struct Index {
  static constexpr int value = I;
  SKREG_INLINE constexpr operator int() const { return I; }
};

// Calls f(0) to f(n - 1), with indices that the compiler knows where it knows the size.
template <int... I, class F> SKREG_INLINE void unrolled(std::integer_sequence<int, I...>, F &&f) {
  (f(Index<I>{}), ...);
}
template <int D, int H, int W, int C, class F>
SKREG_INLINE void for_each_position(const StaticShape<D, H, W, C> &, F &&f) {
  unrolled(std::make_integer_sequence<int, D * H * W>{}, f);
}
template <class F> SKREG_INLINE void for_each_position(const DynamicShape &shape, F &&f) {
  for (int64_t p = 0; p < shape.size; p++)
    f(p);
}

// All pairs of adjacent positions of a static shape. Offsets run over one half of the neighbourhood.
template <class Shape> struct Pairs {
  int count = 0, p[13 * Shape::size + 1] = {}, q[13 * Shape::size + 1] = {};
  bool p_first[13 * Shape::size + 1] = {}, q_first[13 * Shape::size + 1] = {}; // no pair before holds this position
  constexpr Pairs() {
    bool seen[Shape::size] = {};
    for (int here = 0; here < Shape::size; here++)
      for (int o = 14; o < 27; o++) { // the offsets after (0, 0, 0) in the order of (z, y, x) from (-1, -1, -1)
        const int dz = o / 9 - 1, dy = o / 3 % 3 - 1, dx = o % 3 - 1;
        const int z = here / Shape::width / Shape::height + dz, y = here / Shape::width % Shape::height + dy,
                  x = here % Shape::width + dx;
        if (dz * dz + dy * dy + dx * dx <= Shape::connectivity && z < Shape::depth && y >= 0 && y < Shape::height &&
            x >= 0 && x < Shape::width) {
          const int there = (z * Shape::height + y) * Shape::width + x;
          p[count] = here;
          q[count] = there;
          p_first[count] = !seen[here];
          q_first[count++] = !seen[there];
          seen[here] = seen[there] = true;
        }
      }
  }
};
template <class Shape> struct PairTable {
  static constexpr Pairs<Shape> pairs{};
};

template <int P, int Q, bool PFirst, bool QFirst> struct Pair {
  Index<P> p;
  Index<Q> q;
  static constexpr bool p_first = PFirst, q_first = QFirst;
};
struct DynamicPair {
  int64_t p, q;
  static constexpr bool p_first = false, q_first = false;
};

template <class Shape, int... I, class F> SKREG_INLINE void each_pair(std::integer_sequence<int, I...>, F &&f) {
  using Table = PairTable<Shape>;
  (f(Pair<Table::pairs.p[I], Table::pairs.q[I], Table::pairs.p_first[I], Table::pairs.q_first[I]>{}), ...);
}

// Calls f(pair) for every pair of adjacent positions, once.
template <int D, int H, int W, int C, class F> SKREG_INLINE void for_each_pair(const StaticShape<D, H, W, C> &, F &&f) {
  using Shape = StaticShape<D, H, W, C>;
  static_assert(Shape::size > 1, "a single position has no pair");
  each_pair<Shape>(std::make_integer_sequence<int, PairTable<Shape>::pairs.count>{}, f);
}

template <class F> SKREG_INLINE void for_each_pair(const DynamicShape &s, F &&f) {
  for (int64_t z = 0; z < s.depth; z++)
    for (int64_t y = 0; y < s.height; y++)
      for (int dz = 0; dz <= 1 && z + dz < s.depth; dz++)
        for (int dy = dz ? -1 : 0; dy <= 1; dy++)
          for (int dx = dz || dy ? -1 : 1; dx <= 1; dx++) {
            if (y + dy < 0 || y + dy >= s.height || dz * dz + dy * dy + dx * dx > s.connectivity)
              continue;
            const int64_t here = (z * s.height + y) * s.width, there = ((z + dz) * s.height + y + dy) * s.width + dx;
            const int64_t last = dx > 0 ? s.width - 1 : s.width;
            for (int64_t x = dx < 0 ? 1 : 0; x < last; x++)
              f(DynamicPair{here + x, there + x});
          }
}

// A sum of many terms. SIMD code has little else to do while one addition waits for the last, so vectors add in two
// chains; a GPU thread has neighbours, and no registers to spare.
template <class T> struct Sum {
  T first{}, second{};
  template <class I> SKREG_INLINE void add(const I &, T term) { first += term; }
  template <int I> SKREG_INLINE void add(const Index<I> &, T term) {
    if constexpr (sizeof(T) > sizeof(double) && I % 2 == 1)
      second += term;
    else
      first += term;
  }
  SKREG_INLINE T total() const {
    if constexpr (sizeof(T) > sizeof(double))
      return first + second;
    else
      return first;
  }
};

template <class T, class Shape> SKREG_INLINE T difference(const Shape &shape, const T *k) {
  Sum<T> sum;
  for_each_pair(shape, [&](auto pair) SKREG_INLINE_LAMBDA {
    const T d = k[pair.q] - k[pair.p];
    sum.add(pair.p, d * d);
  });
  return sum.total();
}

template <class T, class Shape> SKREG_INLINE T dot(const Shape &shape, const T *k, const T *v) {
  Sum<T> sum;
  for_each_position(shape, [&](auto p) SKREG_INLINE_LAMBDA { sum.add(p, k[p] * v[p]); });
  return sum.total();
}

// Writes L k and returns D: both come from the same differences.
template <class T, class Shape> SKREG_INLINE T laplacian(const Shape &shape, const T *k, T *result) {
  if constexpr (std::is_same_v<Shape, DynamicShape>)
    for_each_position(shape, [&](auto p) SKREG_INLINE_LAMBDA { result[p] = T{}; });
  Sum<T> sum;
  for_each_pair(shape, [&](auto pair) SKREG_INLINE_LAMBDA {
    const T d = k[pair.q] - k[pair.p];
    sum.add(pair.p, d * d);
    // The first pair of a position writes: the compiler may not drop 0 + d, which is not d where d is -0.
    result[pair.q] = pair.q_first ? d : result[pair.q] + d;
    result[pair.p] = pair.p_first ? -d : result[pair.p] - d;
  });
  return sum.total();
}

template <class T> struct Score {
  T value;   // S
  T a, b;    // dS/dk = a L k + b k
  T inverse; // 1 / E for "divide" (0 where E is 0), otherwise 0
};

// `select` and `exponential_function` come with the type T: for scalars from cuda/scalar.cuh, for vectors from
// cpu/simd.h.
template <class T> SKREG_INLINE Score<T> score(int normalize, T d, T e) {
  const T zero{}, two = zero + 2;
  if (normalize == kSubtract)
    return {d - e, two, -two, zero};
  if (normalize == kNoNormalize)
    return {d, two, zero, zero};
  const auto nonzero = e != zero; // also true for nan, which must stay visible
  const T inverse = select(nonzero, 1 / select(nonzero, e, two), zero);
  const T value = d * inverse;
  return {value, two * inverse, -two * value * inverse, inverse};
}

template <class T> struct Exponential {
  T value, slope, curvature;
};

// exp(s), continued by its tangent above max_exponent. Comparisons are written so that nan passes through.
template <class T, class S> SKREG_INLINE Exponential<T> exponential(T s, S max_exponent) {
  const T zero{}, limit = zero + max_exponent;
  const auto above = s > limit;
  const T e = exponential_function(select(above, limit, s));
  return {select(above, e * (1 + (s - limit)), e), e, select(above, zero, e)};
}

// What multiplies L k, k, L v and v in a Hessian-vector product. `outer` multiplies the outer product of the score's
// gradient with itself times v (already contracted: outer * <dS/dk, v>), `inner` the Hessian of S times v.
template <class T> struct HessianFactors {
  T lk, k, lv, v;
};
template <class T>
SKREG_INLINE HessianFactors<T> hessian_factors(const Score<T> &s, T outer, T inner, T slope_v, T k_v) {
  const T turn = outer - inner * 2 * k_v * s.inverse;
  return {turn * s.a, turn * s.b - inner * 2 * slope_v * s.inverse, inner * s.a, inner * s.b};
}

} // namespace SKREG_ARITHMETIC
