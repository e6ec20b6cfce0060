// How a block finds its layer and its place in memory.
#pragma once

#include "records.h"

namespace skreg {

template <int Operands> __device__ __forceinline__ int find_layer(const Arguments<Operands> &a, uint32_t chunk) {
  int low = 0, high = a.layers - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (a.record(middle).first_chunk <= chunk)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

// Arguments that are found by an index are better read from shared memory: fewer registers hold on to them.
template <class Struct> __device__ __forceinline__ void copy_to_shared(const Struct &from, Struct &to) {
  static_assert(sizeof(Struct) % sizeof(int) == 0 && sizeof(Struct) / sizeof(int) <= kThreads);
  if (threadIdx.x < sizeof(Struct) / sizeof(int))
    reinterpret_cast<int *>(&to)[threadIdx.x] = reinterpret_cast<const int *>(&from)[threadIdx.x];
}

__device__ __forceinline__ double read_scale(const Call &call) {
  if (!call.scale)
    return 1;
  return call.scale_wide ? *static_cast<const double *>(call.scale) : double(*static_cast<const float *>(call.scale));
}

// Of a layer and the call: what multiplies dS/dk, and the outer product in the Hessian for exponentiate="layer".
struct Factors {
  double coefficient, curvature;
};

// In elements, from the first of a tensor.
__device__ __forceinline__ int64_t kernel_offset(const Strides &strides, int64_t inner, int64_t kernel) {
  return kernel / inner * strides.outer + kernel % inner * strides.inner;
}

// In elements, from the first of a kernel.
__device__ __forceinline__ int64_t position_offset(const Strides &strides, const CompactShape &shape, int p) {
  const int x = p % shape.width, row = p / shape.width, y = row % shape.height, z = row / shape.height;
  return z * strides.spatial[0] + y * strides.spatial[1] + x * strides.spatial[2];
}

} // namespace skreg
