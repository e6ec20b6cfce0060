// Multiplies many tensors by one number on the device, in one launch.
#include "element.cuh"
#include "layers.cuh"

namespace skreg {
namespace {

constexpr int kBatch = 4;

template <class T, class E> __device__ __forceinline__ E scaled(E x, T factor) {
  return Narrow<E>::from(widen<T>(x) * factor);
}

template <class T, class E> __device__ __forceinline__ void scale_flat(E *p, int n, T factor) {
  int done = 0;
  if (is_aligned(p)) {
    const int vectors = n / kVector<E>;
#pragma unroll kBatch
    for (int i = threadIdx.x; i < vectors; i += kThreads) {
      Vector<E> v = reinterpret_cast<Vector<E> *>(p)[i];
#pragma unroll
      for (int j = 0; j < kVector<E>; j++)
        v.element[j] = scaled(v.element[j], factor);
      reinterpret_cast<Vector<E> *>(p)[i] = v;
    }
    done = vectors * kVector<E>;
  }
  for (int i = done + threadIdx.x; i < n; i += kThreads)
    p[i] = scaled(p[i], factor);
}

__global__ void __launch_bounds__(kThreads, 8) scale_kernel(const __grid_constant__ Arguments<1> a) {
  const double factor = read_scale(a.call);
  if (factor == 1)
    return;
  const Record<1> &record = a.record(find_layer(a, blockIdx.x));
  const Geometry<1> &geometry = a.geometry(record.geometry);
  const int64_t begin = int64_t(blockIdx.x - record.first_chunk) * geometry.chunk;
  const int count = int(min(int64_t(geometry.chunk), geometry.kernels - begin));
  const CompactShape &shape = geometry.shape;
  with_type(record.data[0], record.dtype(0), [&](auto *p) {
    using E = std::remove_reference_t<decltype(*p)>;
    using T = std::conditional_t<std::is_same_v<E, double>, double, float>;
    if (geometry.packed)
      return scale_flat(p + begin * shape.size, count * shape.size, T(factor));
    for (int i = threadIdx.x; i < count; i += kThreads)
      for (int q = 0; q < shape.size; q++) {
        E &x = p[kernel_offset(geometry.strides[0], geometry.inner, begin + i) +
                 position_offset(geometry.strides[0], shape, q)];
        x = scaled(x, T(factor));
      }
  });
}

} // namespace

cudaError_t launch_scale(const Arguments<1> &arguments, cudaStream_t stream) {
  scale_kernel<<<arguments.chunks, kThreads, 0, stream>>>(arguments);
  return cudaGetLastError();
}

} // namespace skreg
