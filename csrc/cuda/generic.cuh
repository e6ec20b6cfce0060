// Kernels of any size, in float or double, from global memory: 1 to 32 threads share a kernel. With one thread a
// kernel neighbouring threads read neighbouring kernels, with several neighbouring elements of one kernel.
#pragma once

#include "element.cuh"
#include "stencil.cuh"
#include "task.cuh"

namespace skreg {

// Every x becomes its sum over the lanes of a kernel.
template <class... T> __device__ __forceinline__ void add_lanes(int lanes, T &...x) {
#pragma unroll 1
  for (int step = 1; step < lanes; step *= 2)
    ((x += __shfl_xor_sync(0xffffffff, x, step)), ...);
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

__device__ __forceinline__ int lane_of_thread(int lane_bits) { return int(threadIdx.x) & ((1 << lane_bits) - 1); }

// Calls f(z, y, x) for the positions of this thread.
template <class F>
__device__ __forceinline__ void for_each_own_position(const CompactShape &s, const int &lane_bits, F &&f) {
#pragma unroll 1
  for (int p = lane_of_thread(lane_bits); p < s.size; p += 1 << lane_bits) {
    asm volatile("" ::: "memory"); // sizes and strides are read where they are needed, not kept in registers
    const unsigned row = unsigned(p) / unsigned(s.width), z = row / unsigned(s.height);
    f(int(z), int(row - z * s.height), int(p - row * s.width));
  }
}

// E: what weight and vector are made of.
template <Work work, class T, class E>
__device__ __forceinline__ void compute_generic(const Call &call, const Task<kOperands<work>> &task,
                                                ThreadState &state) {
  constexpr bool hessian = work == Work::hessian;
  constexpr int vector = hessian ? 2 : 0;
  const CompactShape &shape = task.geometry.shape;
  const int &lane_bits = task.geometry.lane_bits;
  const auto neighbourhood = [&](const char *kernel, int operand, int z, int y, int x) -> Neighbourhood<T, E> {
    __builtin_assume(__isGlobal(kernel));
    const int64_t *stride = task.geometry.strides[operand].spatial;
    return {reinterpret_cast<const E *>(kernel) + z * stride[0] + y * stride[1] + x * stride[2], stride};
  };
  state.sums = {};
#pragma unroll 1 // and for as many rounds in every thread, because threads meet in shuffles
  for (state.kernel = int(threadIdx.x) >> lane_bits; state.kernel - (int(threadIdx.x) >> lane_bits) < task.count;
       state.kernel += kThreads >> lane_bits) {
    const int kernel = state.kernel < task.count ? state.kernel : 0;
    state.weight = task.record.data[0] + task.offset(0, kernel) * int(sizeof(E));
    if constexpr (hessian)
      state.vector = task.record.data[2] + task.offset(2, kernel) * int(sizeof(E));
    T d = 0, e = 0, lk_v = 0, k_v = 0;
    for_each_own_position(shape, lane_bits, [&](int z, int y, int x) {
      const Neighbourhood<T, E> near_k = neighbourhood(state.weight, 0, z, y, x);
      const Neighbourhood<T, E> near_v = hessian ? neighbourhood(state.vector, vector, z, y, x) : near_k;
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
    if constexpr (hessian)
      add_lanes(1 << lane_bits, d, e, lk_v, k_v);
    else
      add_lanes(1 << lane_bits, d, e);
    const auto result =
        evaluate<work>(call.options, d, e, lk_v, k_v, T(task.factors.coefficient), T(task.factors.curvature));
    if (state.kernel < task.count && lane_of_thread(lane_bits) == 0) {
      state.sums.score += double(result.value);
      state.sums.slope += double(result.slope);
    }
    if constexpr (work != Work::sums) {
      if (state.kernel >= task.count || !task.writes(call))
        continue;
      const auto &f = result.factors;
      state.factors = {double(f.lk), double(f.k), double(f.lv), double(f.v)};
      const int64_t base = task.offset(1, state.kernel);
      for_each_own_position(shape, lane_bits, [&](int z, int y, int x) {
        const auto &f = state.factors;
        T out = 0;
#pragma unroll 1 // weight and vector by the same code: two copies of it would not fit the registers
        for (int operand = 0; operand <= vector; operand += 2) {
          const auto near = neighbourhood(operand ? state.vector : state.weight, operand, z, y, x);
          out += near.combine(shape, z, y, x, T(operand ? f.lv : f.lk), T(operand ? f.v : f.k));
        }
        const int64_t *to = task.geometry.strides[1].spatial;
        store_element(out, task.record.data[1], task.record.dtype(1), base + z * to[0] + y * to[1] + x * to[2],
                      call.add);
      });
    }
  }
}

} // namespace skreg
