// Between global and shared memory: a chunk of kernels as floats, one after the other.
#pragma once

#include "element.cuh"
#include "task.cuh"

namespace skreg {

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
  in_batches<E>(n - done, [&](int i) { return from[done + i]; }, [&](int i, E x) { to[done + i] = widen<float>(x); });
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
    E batch[kBatch]{}; // see `in_batches`
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
    E batch[kBatch]{}; // see `in_batches`
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

template <int Operands>
__device__ __forceinline__ void load_operand(const Task<Operands> &task, int operand, float *shared) {
  const int size = task.geometry.shape.size;
  with_type(task.record.data[operand], task.record.dtype(operand), [&](const auto *p) {
    if (task.packed(operand))
      load_flat(p + task.begin * size, shared, task.count * size);
    else
#pragma unroll 1
      for (int i = threadIdx.x; i < task.count; i += kThreads)
        load_strided(p + task.offset(operand, i), task.offsets[operand], shared + i * size, size);
  });
}

template <int Operands>
__device__ __forceinline__ void store_operand(const Task<Operands> &task, int operand, const float *shared, bool add) {
  const int size = task.geometry.shape.size;
  with_type(task.record.data[operand], task.record.dtype(operand), [&](auto *p) {
    if (task.packed(operand))
      store_flat(shared, p + task.begin * size, task.count * size, add);
    else
#pragma unroll 1
      for (int i = threadIdx.x; i < task.count; i += kThreads)
        store_strided(shared + i * size, p + task.offset(operand, i), task.offsets[operand], size, add);
  });
}

} // namespace skreg
