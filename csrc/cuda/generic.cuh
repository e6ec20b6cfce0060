// Kernels of any size, in float or double, from global memory: 1 to 32 threads share a kernel. With one thread a
// kernel neighbouring threads read neighbouring kernels, with several neighbouring elements of one kernel.
#pragma once

#include "element.cuh"
#include "layers.cuh"
#include "stencil.cuh"

namespace skreg {

template <class T> __device__ __forceinline__ T sum_of_lanes(T x, int lanes) {
#pragma unroll 1
  for (int step = lanes / 2; step; step /= 2)
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
  __device__ __forceinline__ T laplacian(const CompactShape &s, int z, int y, int x) const {
    const T center = widen<T>(*here);
    T sum = 0;
    for_each_neighbour<false>(s, z, y, x, [&](int dz, int dy, int dx) { sum += center - (*this)(dz, dy, dx); });
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
    f(p / s.width / s.height, p / s.width % s.height, p % s.width);
  }
}

// E: what weight and vector are made of.
template <Work work, class T, class E>
__device__ __forceinline__ void compute_generic(const Call &call, const Record<kOperands<work>> &record,
                                                const Geometry<kOperands<work>> &geometry, int64_t begin, int64_t end,
                                                const Factors &factors, Sums &sums) {
  constexpr bool hessian = work == Work::hessian;
  constexpr int vector = hessian ? 2 : 0;
  const CompactShape &shape = geometry.shape;
  const int64_t *stride_k = geometry.strides[0].spatial, *stride_v = geometry.strides[vector].spatial;
  const int lanes = geometry.lanes, lane = int(threadIdx.x) % lanes;
#pragma unroll 1 // and for as many rounds in every thread, because threads meet in shuffles
  for (int64_t first = begin; first < end; first += kThreads / lanes) {
    const int64_t own = first + int(threadIdx.x) / lanes, kernel = own < end ? own : begin;
    const E *k = reinterpret_cast<const E *>(record.data[0]) + kernel_offset(geometry.strides[0], geometry.inner, kernel);
    const E *v =
        reinterpret_cast<const E *>(record.data[vector]) + kernel_offset(geometry.strides[vector], geometry.inner, kernel);
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
        evaluate<work>(call.options, d, e, lk_v, k_v, T(factors.coefficient), T(factors.curvature));
    if (own < end && lane == 0) {
      sums.score += double(result.value);
      sums.slope += double(result.slope);
    }
    if constexpr (work != Work::sums) {
      if (own >= end || !call.write)
        continue;
      const Strides &to = geometry.strides[1];
      const int64_t base = kernel_offset(to, geometry.inner, kernel);
      for_each_own_position(shape, lane, lanes, [&](int z, int y, int x) {
        const auto f = result.factors;
        const Neighbourhood<T, E> near_k{position(k, stride_k, z, y, x), stride_k};
        T out = f.lk * near_k.laplacian(shape, z, y, x) + f.k * near_k(0, 0, 0);
        if constexpr (hessian) {
          const Neighbourhood<T, E> near_v{position(v, stride_v, z, y, x), stride_v};
          out += f.lv * near_v.laplacian(shape, z, y, x) + f.v * near_v(0, 0, 0);
        }
        store_element(out, record.data[1], record.dtype(1),
                      base + z * to.spatial[0] + y * to.spatial[1] + x * to.spatial[2], call.add);
      });
    }
  }
}

} // namespace skreg
