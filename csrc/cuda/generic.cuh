// Kernels of any size, in float or double, from global memory: 1 to 32 threads share a kernel. With one thread a
// kernel neighbouring threads read neighbouring kernels, with several neighbouring elements of one kernel.
#pragma once

#include "element.cuh"
#include "stencil.cuh"
#include "task.cuh"

namespace skreg {

template <class T> __device__ __forceinline__ T sum_of_lanes(T x, int lanes) {
#pragma unroll 1
  for (int step = 1; step < lanes; step *= 2)
    x += __shfl_xor_sync(0xffffffff, x, step);
  return x;
}

// Elements of type E, of one kernel of one operand, around one position.
template <class T, class E> struct Neighbourhood {
  const E *here;
  const int64_t *stride;
  __device__ __forceinline__ T operator()(int dz, int dy, int dx) const {
    return widen<T>(here[dz * stride[0] + dy * stride[1] + dx * stride[2]]);
  }
  // factor_l L k + factor k
  __device__ __forceinline__ T combine(const CompactShape &s, int z, int y, int x, T factor_l, T factor) const {
    const T center = widen<T>(*here);
    T sum = factor * center;
    for_each_neighbour<false>(s, z, y, x,
                              [&](int dz, int dy, int dx) { sum += factor_l * (center - (*this)(dz, dy, dx)); });
    return sum;
  }
};

template <class E> __device__ __forceinline__ E *position(E *kernel, const int64_t *stride, int z, int y, int x) {
  return kernel + z * stride[0] + y * stride[1] + x * stride[2];
}

// Calls f(z, y, x) for the positions of thread `lane` of `lanes`.
template <class F>
__device__ __forceinline__ void for_each_own_position(const CompactShape &s, int lane, int lanes, F &&f) {
#pragma unroll 1
  for (int p = lane; p < s.size; p += lanes) {
    asm volatile("" ::: "memory"); // sizes and strides are read where they are needed, not kept in registers
    const unsigned row = unsigned(p) / unsigned(s.width), z = row / unsigned(s.height);
    f(int(z), int(row - z * s.height), int(p - row * s.width));
  }
}

// E: what weight and vector are made of.
template <Work work, class T, class E>
__device__ __forceinline__ void compute_generic(const Call &call, const Task<kOperands<work>> &task, Sums &sums) {
  constexpr bool hessian = work == Work::hessian;
  constexpr int vector = hessian ? 2 : 0;
  const CompactShape &shape = task.geometry.shape;
  const int64_t *stride_k = task.geometry.strides[0].spatial, *stride_v = task.geometry.strides[vector].spatial;
  const int &lane_bits = task.geometry.lane_bits;
  const int lanes = 1 << lane_bits, lane = int(threadIdx.x) & (lanes - 1);
#pragma unroll 1 // and for as many rounds in every thread, because threads meet in shuffles
  for (int first = 0; first < task.count; first += kThreads >> lane_bits) {
    const int own = first + (int(threadIdx.x) >> lane_bits);
    const int kernel = own < task.count ? own : 0;
    const E *k = reinterpret_cast<const E *>(task.record.data[0]) + task.offset(0, kernel);
    const E *v = reinterpret_cast<const E *>(task.record.data[vector]) + task.offset(vector, kernel);
    __builtin_assume(__isGlobal(k));
    __builtin_assume(__isGlobal(v));
    T d = 0, e = 0, lk_v = 0, k_v = 0;
    for_each_own_position(shape, lane, lanes, [&](int z, int y, int x) {
      const Neighbourhood<T, E> near_k{position(k, stride_k, z, y, x), stride_k};
      const Neighbourhood<T, E> near_v{position(v, stride_v, z, y, x), stride_v};
      const T center_k = near_k(0, 0, 0), center_v = hessian ? near_v(0, 0, 0) : T(0);
      e += center_k * center_k;
      k_v += center_k * center_v;
      for_each_neighbour<true>(shape, z, y, x, [&](int dz, int dy, int dx) {
        const T step = center_k - near_k(dz, dy, dx);
        d += step * step;
        if constexpr (hessian)
          lk_v += step * (center_v - near_v(dz, dy, dx));
      });
    });
    d = sum_of_lanes(d, lanes);
    e = sum_of_lanes(e, lanes);
    if constexpr (hessian) {
      lk_v = sum_of_lanes(lk_v, lanes);
      k_v = sum_of_lanes(k_v, lanes);
    }
    const auto result =
        evaluate<work>(call.options, d, e, lk_v, k_v, T(task.factors.coefficient), T(task.factors.curvature));
    if (own < task.count && lane == 0) {
      sums.score += double(result.value);
      sums.slope += double(result.slope);
    }
    if constexpr (work != Work::sums) {
      if (own >= task.count || !call.write)
        continue;
      const int64_t base = task.offset(1, kernel);
      for_each_own_position(shape, lane, lanes, [&](int z, int y, int x) {
        const auto f = result.factors;
        const Neighbourhood<T, E> near_k{position(k, stride_k, z, y, x), stride_k};
        T out = near_k.combine(shape, z, y, x, f.lk, f.k);
        if constexpr (hessian) {
          const Neighbourhood<T, E> near_v{position(v, stride_v, z, y, x), stride_v};
          out += near_v.combine(shape, z, y, x, f.lv, f.v);
        }
        const int64_t *to = task.geometry.strides[1].spatial;
        store_element(out, task.record.data[1], task.record.dtype(1), base + z * to[0] + y * to[1] + x * to[2],
                      call.add);
      });
    }
  }
}

} // namespace skreg
