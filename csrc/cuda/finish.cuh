// From the sums of threads to the value of a layer and of the call, in an order that depends on the layer alone.
//
// A block leaves its chunk's sums in a slot and counts itself in; the last one of a layer adds the slots and finishes
// the layer, and the last one of all layers adds the layers. Counters go back to 0 as they overflow (atomicInc), so
// nobody has to clear them.
#pragma once

#include "rounds.cuh"
#include "stencil.cuh"

namespace skreg {

__device__ __forceinline__ double sum_of_block(double x, double *shared) {
#pragma unroll
  for (int step = 16; step; step /= 2)
    x += __shfl_xor_sync(0xffffffff, x, step);
  __syncthreads(); // who still reads what the last call left
  if (threadIdx.x % 32 == 0)
    shared[threadIdx.x / 32] = x;
  __syncthreads();
  double sum = 0;
#pragma unroll
  for (int w = 0; w < kThreads / 32; w++)
    sum += shared[w];
  return sum;
}

// Whether this block is the last of `count` to get here; then it sees what the others wrote before.
__device__ __forceinline__ bool is_last(unsigned *counter, unsigned count, bool *shared) {
  if (threadIdx.x == 0) {
    __threadfence();
    *shared = atomicInc(counter, count - 1) == count - 1;
    __threadfence();
  }
  __syncthreads();
  return *shared;
}

__device__ __forceinline__ void write_number(void *to, bool wide, int at, double x) {
  if (wide)
    static_cast<double *>(to)[at] = x;
  else
    static_cast<float *>(to)[at] = float(x);
}

// R(W) before the coefficient, and its derivatives, from the sums over kernels.
template <int Operands>
__device__ __forceinline__ void finish_layer(const Call &call, const Record<Operands> &record,
                                             const Geometry<Operands> &geometry, int layer, Sums sums) {
  const Options &options = call.options;
  if (geometry.shape.size == 0 && options.exponentiate == kKernel)
    sums.score = double(geometry.kernels) * exponential(0.0, options.max_exponent).value; // S = 0 without elements
  const double share = options.mean && geometry.kernels > 0 ? 1 / double(geometry.kernels) : 1;
  Exponential<double> r{sums.score * share, 1, 0};
  if (options.exponentiate == kLayer)
    r = exponential(r.value, options.max_exponent);
  const double slope = share * sums.slope;
  if (call.values)
    write_number(call.values, call.wide, layer, r.value);
  if (call.factors)
    call.factors[layer] = {r.slope, r.curvature * slope};
  call.weighted[layer] = record.coefficient * (Operands == 3 ? r.slope * slope : r.value);
}

template <int Operands>
__device__ __forceinline__ void finish(const Arguments<Operands> &a, const Task<Operands> &task, Sums sums,
                                       unsigned *counters) {
  __shared__ double shared[kThreads / 32];
  __shared__ bool last;
  constexpr bool slopes = Operands == 3;
  const Call &call = a.call;
  const uint32_t first = task.record.first_chunk, end = a.end_chunk(task.layer);
  sums.score = sum_of_block(sums.score, shared);
  if constexpr (slopes)
    sums.slope = sum_of_block(sums.slope, shared);
  if (threadIdx.x == 0)
    call.partials[task.turn.chunk] = sums;
  if (!is_last(counters + task.layer, end - first, &last))
    return;

  sums = {};
  for (uint32_t c = first + threadIdx.x; c < end; c += kThreads) {
    sums.score += __ldcg(&call.partials[c].score);
    if constexpr (slopes)
      sums.slope += __ldcg(&call.partials[c].slope);
  }
  sums.score = sum_of_block(sums.score, shared);
  if constexpr (slopes)
    sums.slope = sum_of_block(sums.slope, shared);
  if (threadIdx.x == 0) {
    finish_layer(call, task.record, task.geometry, a.first_layer + task.layer, sums);
    Rounds<Operands>(a, counters).announce(task.layer);
  }
  if (!is_last(counters + a.layers, a.layers, &last) || !a.last || !call.total)
    return;

  double total = 0;
  for (int i = threadIdx.x; i < a.first_layer + a.layers; i += kThreads)
    total += __ldcg(call.weighted + i);
  total = sum_of_block(total, shared);
  if (threadIdx.x == 0)
    write_number(call.total, call.wide, 0, total);
}

} // namespace skreg
