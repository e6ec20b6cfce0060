// Kernels of a size that the compiler knows: from shared memory into registers, one a thread, and back in place.
#pragma once

#include "stage.cuh"
#include "stencil.cuh"

namespace skreg {

constexpr int kRegisterElements =
    9; // of a thread's kernel; of a larger one a window is in registers, the rest in shared memory

// Calls f(q) for the neighbours q of position p; half: for those after p. All of it is known to the compiler once the
// caller's loop over p is unrolled.
template <class Shape, bool half, class F> __device__ __forceinline__ void for_each_neighbour(int p, F &&f) {
  static_assert(Shape::depth == 1);
  const int y = p / Shape::width, x = p % Shape::width;
#pragma unroll
  for (int dy = half ? 0 : -1; dy <= 1; dy++)
#pragma unroll
    for (int dx = -1; dx <= 1; dx++)
      if ((dy || (half ? dx > 0 : dx)) && dy * dy + dx * dx <= Shape::connectivity && y + dy >= 0 &&
          y + dy < Shape::height && x + dx >= 0 && x + dx < Shape::width)
        f(p + dy * Shape::width + dx);
}

// A kernel in shared memory, of which a window is in registers: what neighbours of the current position need.
template <class Shape> struct Window {
  static constexpr int ahead = Shape::width + 1;
  float k[Shape::size];

  __device__ __forceinline__ void advance(const float *memory, int p) {
#pragma unroll
    for (int q = 0; q < Shape::size; q++)
      if (q == p + ahead || (p == 0 && q < ahead))
        k[q] = memory[q];
  }
  __device__ __forceinline__ float laplacian(int p) const {
    float sum = 0;
    for_each_neighbour<Shape, false>(p, [&](int q) { sum += k[p] - k[q]; });
    return sum;
  }
  // Hides from the compiler that the differences of the first pass come again in the second: kept for that, they
  // would not fit the registers.
  __device__ __forceinline__ void forget() {
#pragma unroll
    for (int p = 0; p < Shape::size; p++)
      asm volatile("" : "+f"(k[p]));
  }
};

// In a new pass elements are read again, each just before it is needed.
__device__ __forceinline__ void begin_pass() { asm volatile("" ::: "memory"); }

// The direction of a Hessian-vector product has passes to itself: registers never hold more of it than one element
// beside the kernel.
template <Work work, class Shape>
__device__ __forceinline__ void compute_staged(const Call &call, const Task<kOperands<work>> &task, float *weights,
                                               const float *vectors, Sums &sums) {
  static_assert(Shape::size <= kLargestCompiled);
  const float coefficient = float(task.factors.coefficient), curvature = float(task.factors.curvature);
  constexpr int size = Shape::size;
  constexpr bool hessian = work == Work::hessian, keep = size <= kRegisterElements;
#pragma unroll 1 // one kernel at a time fits the registers
  for (int i = threadIdx.x; i < task.count; i += kThreads) {
    float *weight = weights + i * size;
    const float *vector = hessian ? vectors + i * size : nullptr;
    Window<Shape> window;
    const float *k = window.k;
    float d = 0, e = 0, lk_v = 0, k_v = 0;
#pragma unroll
    for (int p = 0; p < size; p++) {
      window.advance(weight, p);
      e += k[p] * k[p];
      for_each_neighbour<Shape, true>(p, [&](int q) { d += (k[p] - k[q]) * (k[p] - k[q]); });
      if constexpr (hessian) {
        const float v = vector[p];
        lk_v += window.laplacian(p) * v;
        k_v += k[p] * v;
      }
    }
    const auto result = evaluate<work>(call.options, d, e, lk_v, k_v, coefficient, curvature);
    sums.score += double(result.value);
    sums.slope += double(result.slope);
    if (work == Work::sums || !task.writes(call))
      continue;
    const auto f = result.factors;
    if constexpr (keep)
      window.forget();
    else
      begin_pass();
#pragma unroll
    for (int p = 0; p < size; p++) {
      if constexpr (!keep)
        window.advance(weight, p);
      weight[p] = f.lk * window.laplacian(p) + f.k * k[p];
    }
    if constexpr (hessian) {
      begin_pass();
#pragma unroll
      for (int p = 0; p < size; p++) {
        window.advance(vector, p);
        weight[p] += f.lv * window.laplacian(p) + f.v * k[p];
      }
    }
  }
}

} // namespace skreg
