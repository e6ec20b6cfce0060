// The penalty of many weights in one launch: a block works on a chunk of one of them.
#include "finish.cuh"
#include "generic.cuh"
#include "staged.cuh"

namespace skreg {
namespace {

// Zero when no launch is running. The second half belongs to captured launches.
__device__ unsigned all_counters[2 * kCounters];

template <Work work>
__device__ __forceinline__ void compute_staged(const Call &call, const Task<kOperands<work>> &task, float *weights,
                                               const float *vectors, Sums &sums) {
  switch (task.geometry.kind) {
  case Kind::taps3:
    return compute_staged<work, StaticShape<1, 1, 3, 1>>(call, task, weights, vectors, sums);
  case Kind::square3:
    return compute_staged<work, StaticShape<1, 3, 3, 1>>(call, task, weights, vectors, sums);
  case Kind::square3_diagonal:
    return compute_staged<work, StaticShape<1, 3, 3, 2>>(call, task, weights, vectors, sums);
  case Kind::square5:
    return compute_staged<work, StaticShape<1, 5, 5, 1>>(call, task, weights, vectors, sums);
  default:
    return compute_staged<work, StaticShape<1, 7, 7, 1>>(call, task, weights, vectors, sums);
  }
}

template <Work work>
__global__ void __launch_bounds__(kThreads, 8) penalty_kernel(const __grid_constant__ Arguments<kOperands<work>> a) {
  constexpr int Operands = kOperands<work>;
  extern __shared__ float4 shared[];
  __shared__ Task<Operands> task;
  __shared__ unsigned ticket;
  unsigned *counters = all_counters + a.counters;
  const Rounds<Operands> rounds(a, counters);
  task.fill(a, rounds.take_turn(&ticket), [&](int layer) { rounds.wait(layer); });
  Sums sums;
  if (task.geometry.kind != Kind::generic) {
    float *weights = reinterpret_cast<float *>(shared);
    float *vectors = weights + task.geometry.chunk * task.geometry.shape.size;
#pragma unroll 1
    for (int operand = 0; operand < Operands; operand += 2)
      load_operand(task, operand, operand ? vectors : weights);
    __syncthreads();
    compute_staged<work>(a.call, task, weights, vectors, sums);
    if constexpr (work != Work::sums) {
      __syncthreads();
      if (task.writes(a.call))
        store_operand(task, 1, weights, a.call.add);
    }
  } else {
    ThreadState &state = reinterpret_cast<ThreadState *>(shared)[threadIdx.x];
    with_type(task.record.data[0], task.record.dtype(0), [&](const auto *p) {
      using E = std::remove_const_t<std::remove_pointer_t<decltype(p)>>;
      using T = std::conditional_t<std::is_same_v<E, double>, double, float>;
      compute_generic<work, T, E>(a.call, task, state);
    });
    sums = state.sums;
  }
  if (a.call.partials && !task.turn.second_round)
    finish(a, task, sums, counters);
}

} // namespace

template <Work work>
cudaError_t launch_penalty(const Arguments<kOperands<work>> &arguments, int shared_bytes, cudaStream_t stream) {
  const unsigned blocks = arguments.chunks * (arguments.call.factors ? 2 : 1);
  penalty_kernel<work><<<blocks, kThreads, shared_bytes, stream>>>(arguments);
  return cudaGetLastError();
}
template cudaError_t launch_penalty<Work::sums>(const Arguments<1> &, int, cudaStream_t);
template cudaError_t launch_penalty<Work::gradients>(const Arguments<2> &, int, cudaStream_t);
template cudaError_t launch_penalty<Work::hessian>(const Arguments<3> &, int, cudaStream_t);

} // namespace skreg
