// Multiplies many tensors by one number on the device, in one launch.
#include "element.cuh"
#include "task.cuh"

namespace skreg {
namespace {

template <class T, class E> __device__ __forceinline__ E scaled(E x, T factor) {
  return Narrow<E>::from(widen<T>(x) * factor);
}

template <class T, class E> __device__ __forceinline__ void scale_flat(E *p, int n, T factor) {
  int done = 0;
  if (is_aligned(p)) {
    const int vectors = n / kVector<E>;
    Vector<E> *all = reinterpret_cast<Vector<E> *>(p);
    in_batches<Vector<E>>(
        vectors, [&](int i) { return all[i]; },
        [&](int i, Vector<E> v) {
#pragma unroll
          for (int j = 0; j < kVector<E>; j++)
            v.element[j] = scaled(v.element[j], factor);
          all[i] = v;
        });
    done = vectors * kVector<E>;
  }
  in_batches<E>(n - done, [&](int i) { return p[done + i]; }, [&](int i, E x) { p[done + i] = scaled(x, factor); });
}

__global__ void __launch_bounds__(kThreads, 8) scale_kernel(const __grid_constant__ Arguments<1> a) {
  __shared__ Task<1> task;
  const double factor = read_scale(a.call);
  if (factor == 1)
    return;
  task.fill(a, {blockIdx.x, false}, [](int) {});
  const CompactShape &shape = task.geometry.shape;
  with_type(task.record.data[0], task.record.dtype(0), [&](auto *p) {
    using E = std::remove_reference_t<decltype(*p)>;
    using T = std::conditional_t<std::is_same_v<E, double>, double, float>;
    if (task.packed(0))
      return scale_flat(p + task.begin * shape.size, task.count * shape.size, T(factor));
    for (int i = threadIdx.x; i < task.count; i += kThreads)
      for (int q = 0; q < shape.size; q++) {
        E &x = p[task.offset(0, i) + position_offset(task.geometry.strides[0], shape, q)];
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
