// exponentiate="layer" needs the sum of a layer before its gradients. One launch has both: twice as many blocks as
// chunks, which take their turns in the order in which they begin,
//
//     sums of layer 0, sums of 1, gradients of 0, sums of 2, gradients of 1, ...
//
// so that a layer is read again while it still lies in the second-level cache, and its sum is known by then or soon. A
// block waits for blocks only that began before it and that wait for nobody: the wait ends however few blocks the
// device runs at once.
#pragma once

#include "task.cuh"

namespace skreg {

// Both counters go back to 0 as they overflow: `begun` with the last block, `known` when all blocks of a layer's second
// round have passed.
template <int Operands> struct Rounds {
  const Arguments<Operands> &a;
  unsigned *begun, *known;

  __device__ __forceinline__ Rounds(const Arguments<Operands> &arguments, unsigned *counters)
      : a(arguments), begun(counters + a.layers + 1), known(begun + 1) {}

  __device__ __forceinline__ uint32_t first_chunk(int layer) const {
    return layer < 0 ? 0 : layer < a.layers ? a.record(layer).first_chunk : a.chunks;
  }
  __device__ __forceinline__ uint32_t chunks(int layer) const { return first_chunk(layer + 1) - first_chunk(layer); }
  // Where the sums of a layer begin among all turns; the gradients of the layer before it follow them.
  __device__ __forceinline__ uint32_t first_turn(int layer) const {
    return first_chunk(layer) + first_chunk(layer - 1);
  }

  // By all threads of the block.
  __device__ __forceinline__ Turn take_turn(unsigned *shared) const {
    if (!a.call.factors)
      return {blockIdx.x, false};
    if (threadIdx.x == 0)
      *shared = atomicInc(begun, 2 * a.chunks - 1);
    __syncthreads();
    int low = 0, high = a.layers;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (first_turn(middle) <= *shared)
        low = middle;
      else
        high = middle - 1;
    }
    const uint32_t at = *shared - first_turn(low), sums = chunks(low);
    return at < sums ? Turn{first_chunk(low) + at, false} : Turn{first_chunk(low - 1) + at - sums, true};
  }

  // By one thread, when the factors of the layer are written.
  __device__ __forceinline__ void announce(int layer) const {
    if (!a.call.factors)
      return;
    __threadfence();
    atomicInc(known + layer, chunks(layer));
  }

  // By one thread.
  __device__ __forceinline__ void wait(int layer) const {
    while (*static_cast<volatile unsigned *>(known + layer) == 0)
      ;
    __threadfence();
    atomicInc(known + layer, chunks(layer));
  }
};

} // namespace skreg
