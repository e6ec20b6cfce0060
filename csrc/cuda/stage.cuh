// Between global and shared memory: a chunk of kernels as floats, one after the other.
#pragma once

#include "element.cuh"
#include "layers.cuh"

namespace skreg {

constexpr int kBatch = 4; // accesses that a thread has under way at a time

// Calls f(i) for the thread's share of 0 to n - 1 in batches: first `load` for all of a batch, then `use`.
template <class V, class Load, class Use>
__device__ __forceinline__ void in_batches(int n, Load &&load, Use &&use) {
#pragma unroll 1
  for (int first = threadIdx.x; first < n; first += kBatch * kThreads) {
    V batch[kBatch];
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

// `n` elements without gaps.
template <class E> __device__ __forceinline__ void load_flat(const E *from, float *to, int n) {
  int done = 0;
  if (is_aligned(from)) {
    const int vectors = n / kVector<E>;
    in_batches<uint4>(
        vectors, [&](int i) { return __ldg(reinterpret_cast<const uint4 *>(from) + i); },
        [&](int i, uint4 bits) {
          Vector<E> v;
          memcpy(&v, &bits, 16);
          Numbers<E> numbers;
#pragma unroll
          for (int j = 0; j < kVector<E>; j++)
            numbers.number[j] = widen<float>(v.element[j]);
          reinterpret_cast<Numbers<E> *>(to)[i] = numbers;
        });
    done = vectors * kVector<E>;
  }
  in_batches<E>(
      n - done, [&](int i) { return from[done + i]; }, [&](int i, E x) { to[done + i] = widen<float>(x); });
}

template <class E> __device__ __forceinline__ void store_flat(const float *from, E *to, int n, bool add) {
  int done = 0;
  if (is_aligned(to)) {
    const int vectors = n / kVector<E>;
    uint4 *target = reinterpret_cast<uint4 *>(to);
    in_batches<uint4>(
        vectors, [&](int i) { return add ? target[i] : uint4{}; },
        [&](int i, uint4 bits) {
          Vector<E> v;
          memcpy(&v, &bits, 16);
          const Numbers<E> numbers = reinterpret_cast<const Numbers<E> *>(from)[i];
#pragma unroll
          for (int j = 0; j < kVector<E>; j++)
            v.element[j] = Narrow<E>::from(add ? widen<float>(v.element[j]) + numbers.number[j] : numbers.number[j]);
          memcpy(&bits, &v, 16);
          target[i] = bits;
        });
    done = vectors * kVector<E>;
  }
  in_batches<E>(
      n - done, [&](int i) { return add ? to[done + i] : E{}; },
      [&](int i, E x) { to[done + i] = Narrow<E>::from(add ? widen<float>(x) + from[done + i] : from[done + i]); });
}

// Strided: a kernel a thread, so that neighbouring threads are neighbours in memory in channels_last.
// `offsets`: of every position, in shared memory.
template <class E>
__device__ __forceinline__ void load_strided(const E *from, const int64_t *offsets, float *to, int size) {
#pragma unroll 1
  for (int p = 0; p < size; p += kBatch) {
    E batch[kBatch];
#pragma unroll
    for (int u = 0; u < kBatch; u++)
      if (p + u < size)
        batch[u] = from[offsets[p + u]];
#pragma unroll
    for (int u = 0; u < kBatch; u++)
      if (p + u < size)
        to[p + u] = widen<float>(batch[u]);
  }
}
template <class E>
__device__ __forceinline__ void store_strided(const float *from, E *to, const int64_t *offsets, int size, bool add) {
#pragma unroll 1
  for (int p = 0; p < size; p += kBatch) {
    E batch[kBatch];
#pragma unroll
    for (int u = 0; u < kBatch; u++)
      if (add && p + u < size)
        batch[u] = to[offsets[p + u]];
#pragma unroll
    for (int u = 0; u < kBatch; u++)
      if (p + u < size)
        to[offsets[p + u]] = Narrow<E>::from(add ? widen<float>(batch[u]) + from[p + u] : from[p + u]);
  }
}

// One operand of the `count` kernels from `begin` on.
template <int Operands> struct Stage {
  const Record<Operands> &record;
  const Geometry<Operands> &geometry;
  int64_t begin;
  int count;

  __device__ __forceinline__ bool packed(int operand) const { return geometry.packed >> operand & 1; }

  // Fills `offsets`; the caller synchronises.
  __device__ __forceinline__ void prepare(int operand, int64_t *offsets) const {
    if (!packed(operand) && int(threadIdx.x) < geometry.shape.size)
      offsets[threadIdx.x] = position_offset(geometry.strides[operand], geometry.shape, threadIdx.x);
  }

  __device__ __forceinline__ void load(int operand, const int64_t *offsets, float *shared) const {
    const int size = geometry.shape.size;
    with_type(record.data[operand], record.dtype(operand), [&](const auto *p) {
      if (packed(operand))
        load_flat(p + begin * size, shared, count * size);
      else
#pragma unroll 1
        for (int i = threadIdx.x; i < count; i += kThreads)
          load_strided(p + kernel_offset(geometry.strides[operand], geometry.inner, begin + i), offsets,
                       shared + i * size, size);
    });
  }

  __device__ __forceinline__ void store(int operand, const int64_t *offsets, const float *shared, bool add) const {
    const int size = geometry.shape.size;
    with_type(record.data[operand], record.dtype(operand), [&](auto *p) {
      if (packed(operand))
        store_flat(shared, p + begin * size, count * size, add);
      else
#pragma unroll 1
        for (int i = threadIdx.x; i < count; i += kThreads)
          store_strided(shared + i * size, p + kernel_offset(geometry.strides[operand], geometry.inner, begin + i),
                        offsets, size, add);
    });
  }
};

} // namespace skreg
