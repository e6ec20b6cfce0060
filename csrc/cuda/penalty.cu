// The penalty of many weights in one launch: a block works on a chunk of one of them.
#include "finish.cuh"
#include "generic.cuh"
#include "staged.cuh"

namespace skreg {
namespace {

// Zero when no launch is running. The second half belongs to captured launches.
__device__ unsigned all_counters[2 * kCounters];

// What multiplies a layer's dS/dk: known on the device alone where `scale` or the layer's own sum is part of it.
template <int Operands>
__device__ __forceinline__ Factors layer_factors(const Call &call, const Record<Operands> &record,
                                                 const Geometry<Operands> &geometry, int layer) {
  double c = record.coefficient;
  if (call.options.mean && geometry.kernels > 0)
    c /= double(geometry.kernels);
  c *= read_scale(call);
  if (!call.factors_in)
    return {c, 0};
  const LayerFactors factors = call.factors_in[layer];
  return {c * factors.slope, c * factors.curvature};
}

template <Work work>
__device__ __forceinline__ void compute_staged(const Call &call, const Geometry<kOperands<work>> &geometry,
                                               float *weights, const float *vectors, int count, float coefficient,
                                               float curvature, Sums &sums) {
  switch (geometry.kind) {
  case Kind::taps3:
    return compute_staged<work, StaticShape<1, 1, 3, 1>>(call, weights, vectors, count, coefficient, curvature, sums);
  case Kind::square3:
    return compute_staged<work, StaticShape<1, 3, 3, 1>>(call, weights, vectors, count, coefficient, curvature, sums);
  case Kind::square3_diagonal:
    return compute_staged<work, StaticShape<1, 3, 3, 2>>(call, weights, vectors, count, coefficient, curvature, sums);
  case Kind::square5:
    return compute_staged<work, StaticShape<1, 5, 5, 1>>(call, weights, vectors, count, coefficient, curvature, sums);
  default:
    return compute_staged<work, StaticShape<1, 7, 7, 1>>(call, weights, vectors, count, coefficient, curvature, sums);
  }
}

template <Work work>
__global__ void __launch_bounds__(kThreads, 8)
    penalty_kernel(const __grid_constant__ Arguments<kOperands<work>> a) {
  constexpr int Operands = kOperands<work>;
  extern __shared__ float4 shared[];
  __shared__ Factors factors;
  __shared__ int64_t offsets[Operands][49];
  __shared__ Record<Operands> record;
  __shared__ Geometry<Operands> geometry;
  const int layer = find_layer(a, blockIdx.x);
  copy_to_shared(a.record(layer), record);
  copy_to_shared(a.geometry(a.record(layer).geometry), geometry);
  __syncthreads();
  const bool staged = geometry.kind != Kind::generic;
  const int64_t begin = int64_t(blockIdx.x - record.first_chunk) * geometry.chunk;
  const int64_t end = geometry.shape.size == 0 ? begin : min(begin + geometry.chunk, geometry.kernels);
  const Stage<Operands> stage{record, geometry, begin, int(end - begin)};
  float *weights = reinterpret_cast<float *>(shared), *vectors = weights + geometry.chunk * geometry.shape.size;
  Sums sums;

  if (threadIdx.x == 0)
    factors = layer_factors(a.call, record, geometry, a.first_layer + layer);
  if (staged)
    for (int o = 0; o < Operands; o++)
      stage.prepare(o, offsets[o]);
  __syncthreads();
  if (staged) {
    stage.load(0, offsets[0], weights);
    if constexpr (work == Work::hessian)
      stage.load(2, offsets[2], vectors);
    __syncthreads();
    compute_staged<work>(a.call, geometry, weights, vectors, stage.count, float(factors.coefficient),
                         float(factors.curvature), sums);
    if constexpr (work != Work::sums) {
      __syncthreads();
      if (a.call.write)
        stage.store(1, offsets[1], weights, a.call.add);
    }
  } else {
    with_type(record.data[0], record.dtype(0), [&](const auto *p) {
      using E = std::remove_const_t<std::remove_pointer_t<decltype(p)>>;
      using T = std::conditional_t<std::is_same_v<E, double>, double, float>;
      compute_generic<work, T, E>(a.call, record, geometry, begin, end, factors, sums);
    });
  }
  if (a.call.partials)
    finish(a, layer, sums, all_counters + a.counters);
}

} // namespace

template <Work work>
cudaError_t launch_penalty(const Arguments<kOperands<work>> &arguments, int shared_bytes, cudaStream_t stream) {
  penalty_kernel<work><<<arguments.chunks, kThreads, shared_bytes, stream>>>(arguments);
  return cudaGetLastError();
}
template cudaError_t launch_penalty<Work::sums>(const Arguments<1> &, int, cudaStream_t);
template cudaError_t launch_penalty<Work::gradients>(const Arguments<2> &, int, cudaStream_t);
template cudaError_t launch_penalty<Work::hessian>(const Arguments<3> &, int, cudaStream_t);

} // namespace skreg
