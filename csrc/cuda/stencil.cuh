// The arithmetic of penalty.h position by position: D as a sum over neighbours, and L k where it is wanted. A thread
// then holds a part of a kernel at a time, where the CPU holds all of it.
#pragma once

#include "task.cuh"

namespace skreg {

// Calls f(dz, dy, dx) for the neighbours of a position; half: for one of each pair of opposite ones.
template <bool half, class F>
__device__ __forceinline__ void for_each_neighbour(const CompactShape &s, int z, int y, int x, F &&f) {
  const int z_end = z + 1 < s.depth, y_end = y + 1 < s.height, x_end = x + 1 < s.width;
#pragma unroll 1
  for (int dz = half || z == 0 ? 0 : -1; dz <= z_end; dz++)
#pragma unroll 1
    for (int dy = y == 0 || (half && dz == 0) ? 0 : -1; dy <= y_end; dy++)
#pragma unroll 1
      for (int dx = x == 0 || (half && dz == 0 && dy == 0) ? 0 : -1; dx <= x_end; dx++)
        if ((dz || dy || dx) && dz * dz + dy * dy + dx * dx <= s.connectivity) {
          asm volatile("" ::: "memory"); // sizes and strides are read where they are needed, not kept in registers
          f(dz, dy, dx);
        }
}

// What one kernel adds to its layer's sums, and what makes its result:
// factors.lk L k + factors.k k + factors.lv L v + factors.v v
template <class T> struct Evaluation {
  T value, slope;
  HessianFactors<T> factors;
};

// From D, E, <L k, v> and <k, v>.
template <Work work, class T>
__device__ __forceinline__ Evaluation<T> evaluate(const Options &options, T d, T e, T lk_v, T k_v, T coefficient,
                                                  T curvature) {
  const Score<T> s = score(options.normalize, d, e);
  Exponential<T> f{s.value, T(1), T(0)};
  if (options.exponentiate == kKernel)
    f = exponential(s.value, T(options.max_exponent));
  const T factor = f.slope * coefficient;
  if constexpr (work != Work::hessian)
    return {f.value, T(0), {factor * s.a, factor * s.b, T(0), T(0)}};
  const T slope = s.a * lk_v + s.b * k_v;
  const T outer = options.exponentiate == kLayer ? curvature : f.curvature * slope * coefficient;
  return {f.value, f.slope * slope, hessian_factors(s, outer, factor, slope, k_v)};
}

} // namespace skreg
