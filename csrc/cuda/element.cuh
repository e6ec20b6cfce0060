// Elements in memory: float, double, bfloat16, float16, one by one and 16 bytes at a time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "records.h"

namespace skreg {

// Calls f with a pointer of the element type.
template <class F> __device__ __forceinline__ void with_type(char *data, Dtype dtype, F &&f) {
  __builtin_assume(__isGlobal(data)); // or accesses could be to any kind of memory, and slower
  switch (dtype) {
  case Dtype::float32:
    return f(reinterpret_cast<float *>(data));
  case Dtype::float64:
    return f(reinterpret_cast<double *>(data));
  case Dtype::bfloat16:
    return f(reinterpret_cast<__nv_bfloat16 *>(data));
  default:
    return f(reinterpret_cast<__half *>(data));
  }
}

template <class T, class E> __device__ __forceinline__ T widen(E x) { return T(x); }
template <class T> __device__ __forceinline__ T widen(__nv_bfloat16 x) { return T(__bfloat162float(x)); }
template <class T> __device__ __forceinline__ T widen(__half x) { return T(__half2float(x)); }

template <class E> struct Narrow {
  template <class T> static __device__ __forceinline__ E from(T x) { return E(x); }
};
template <> struct Narrow<__nv_bfloat16> {
  template <class T> static __device__ __forceinline__ __nv_bfloat16 from(T x) { return __float2bfloat16_rn(float(x)); }
};
template <> struct Narrow<__half> {
  template <class T> static __device__ __forceinline__ __half from(T x) { return __float2half_rn(float(x)); }
};

template <class E> constexpr int kVector = 16 / int(sizeof(E));

template <class E> struct alignas(16) Vector {
  E element[kVector<E>];
};
// As many numbers as a vector has, in shared memory.
template <class E> struct alignas(kVector<E> >= 4 ? 16 : 8) Numbers {
  float number[kVector<E>];
};

__device__ __forceinline__ bool is_aligned(const void *p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

constexpr int kBatch = 4; // accesses that a thread has under way at a time

// The thread's share of 0 to n - 1 in batches: x = load(i) for all of a batch, then use(i, x).
template <class V, class Load, class Use> __device__ __forceinline__ void in_batches(int n, Load &&load, Use &&use) {
#pragma unroll 1
  for (int first = threadIdx.x; first < n; first += kBatch * kThreads) {
    V batch[kBatch]{}; // not left undefined, or its registers were taken from the kernel's begin to its end
#pragma unroll
    for (int u = 0; u < kBatch; u++)
      if (first + u * kThreads < n)
        batch[u] = load(first + u * kThreads);
#pragma unroll
    for (int u = 0; u < kBatch; u++)
      if (first + u * kThreads < n)
        use(first + u * kThreads, batch[u]);
  }
}

template <class T> __device__ __forceinline__ void store_element(T x, char *data, Dtype dtype, int64_t at, bool add) {
  with_type(data, dtype, [&](auto *p) {
    using E = std::remove_reference_t<decltype(*p)>;
    p[at] = Narrow<E>::from(add ? widen<T>(p[at]) + x : x);
  });
}

} // namespace skreg
