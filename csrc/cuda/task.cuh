// What a block has to do: its layer, its kernels and their places in memory.
#pragma once

#include "scalar.cuh"

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

__device__ __forceinline__ double read_scale(const Call &call) {
  if (!call.scale)
    return 1;
  return call.scale_wide ? *static_cast<const double *>(call.scale) : double(*static_cast<const float *>(call.scale));
}

// In elements, from the first of a kernel.
__device__ __forceinline__ int64_t position_offset(const Strides &strides, const CompactShape &shape, int p) {
  const int x = p % shape.width, row = p / shape.width, y = row % shape.height, z = row / shape.height;
  return z * strides.spatial[0] + y * strides.spatial[1] + x * strides.spatial[2];
}

// What multiplies a layer's dS/dk, and for exponentiate="layer" the outer product in its Hessian.
struct Factors {
  double coefficient, curvature;
};

// Known on the device alone where `scale` or the layer's own sum is part of it.
template <int Operands>
__device__ __forceinline__ Factors layer_factors(const Call &call, const Record<Operands> &record,
                                                 const Geometry<Operands> &geometry, int layer, bool second_round) {
  double c = record.coefficient * read_scale(call);
  if (call.options.mean && geometry.kernels > 0)
    c /= double(geometry.kernels);
  if (!second_round)
    return {c, 0};
  const LayerFactors *factors = call.factors + layer; // of another block: not by way of the first-level cache
  return {c * __ldcg(&factors->slope), c * __ldcg(&factors->curvature)};
}

// The part of the work that a block takes: a chunk, in the first or the second of two rounds. See rounds.cuh.
struct Turn {
  uint32_t chunk;
  bool second_round;
};

// Lies in shared memory, where it is read when it is needed and takes no registers in between.
template <int Operands> struct Task {
  Record<Operands> record;
  Geometry<Operands> geometry;
  Factors factors;
  int64_t begin, row, column; // the first kernel: row * inner + column
  int count;
  int layer; // of this launch
  Turn turn;
  int64_t offsets[Operands][kLargestCompiled]; // of the positions in a kernel of a size that is compiled in

  // Not in the first of two rounds.
  __device__ __forceinline__ bool writes(const Call &call) const { return turn.second_round || !call.factors; }
  __device__ __forceinline__ bool packed(int operand) const { return geometry.packed >> operand & 1; }
  // Of kernel begin + i of this task, in elements from the first of the tensor.
  __device__ __forceinline__ int64_t offset(int operand, int i) const {
    const int64_t inner = geometry.inner, at = column + i;
    const unsigned rows = inner <= 0x7fffffff ? unsigned(at) / unsigned(inner) : unsigned(at >= inner);
    return (row + rows) * geometry.strides[operand].outer + (at - rows * inner) * geometry.strides[operand].inner;
  }

  // By all threads of the block. `wait(layer)` returns when the factors of the layer can be read.
  template <class Wait> __device__ __forceinline__ void fill(const Arguments<Operands> &a, Turn taken, Wait &&wait) {
    const int found = find_layer(a, taken.chunk);
    copy(a.record(found), record);
    copy(a.geometry(a.record(found).geometry), geometry);
    __syncthreads();
    if (threadIdx.x == 0) {
      layer = found;
      turn = taken;
      if (turn.second_round)
        wait(found);
      factors = layer_factors(a.call, record, geometry, a.first_layer + found, turn.second_round);
      begin = int64_t(turn.chunk - record.first_chunk) * geometry.chunk;
      row = begin / geometry.inner;
      column = begin % geometry.inner;
      count = geometry.shape.size == 0 ? 0 : int(min(int64_t(geometry.chunk), geometry.kernels - begin));
    }
    if (geometry.kind != Kind::generic)
#pragma unroll
      for (int o = 0; o < Operands; o++)
        if (!packed(o) && int(threadIdx.x) < geometry.shape.size)
          offsets[o][threadIdx.x] = position_offset(geometry.strides[o], geometry.shape, threadIdx.x);
    __syncthreads();
  }

private:
  template <class Struct> static __device__ __forceinline__ void copy(const Struct &from, Struct &to) {
    constexpr int words = sizeof(Struct) / sizeof(int);
    static_assert(sizeof(Struct) % sizeof(int) == 0 && words <= kThreads);
    if (threadIdx.x < words)
      reinterpret_cast<int *>(&to)[threadIdx.x] = reinterpret_cast<const int *>(&from)[threadIdx.x];
  }
};

} // namespace skreg
