// What a launch is told: one record a tensor, by value in the kernel's arguments, so that no table of pointers has to
// be copied to the device and a CUDA graph holds all that it needs.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "../layer.h"

namespace skreg {

constexpr int kThreads = 128;         // a block
constexpr int kStagedElements = 3200; // of an operand in shared memory, at most

// What a thread that works on a `generic` kernel keeps in shared memory, because in double it would not fit the
// registers.
struct ThreadState {
  Sums sums;
  HessianFactors<double> factors;
  const char *weight, *vector; // the kernel's
  int kernel;                  // of the block's
};

// Kernel sizes that are compiled in, for arithmetic in float. All others are `generic`.
enum class Kind : uint8_t { generic, taps3, square3, square3_diagonal, square5, square7 };
constexpr int kLargestCompiled = 49;

struct CompactShape {
  int depth, height, width, connectivity, size;
};

struct Strides {
  int64_t outer, inner, spatial[3]; // in elements
};

// What tensors of one shape and layout share. Kernel i of a tensor is (i / inner, i % inner).
template <int Operands> struct Geometry {
  int64_t kernels, inner;
  Strides strides[Operands];
  CompactShape shape;
  int chunk;     // kernels a block
  int lane_bits; // 1 << lane_bits threads a kernel, for `generic`
  Kind kind;
  uint8_t packed; // bit o: in operand o the kernels follow one another without gaps
  uint8_t zero[2];
};

// Operands: the weight, then the result, then the vector.
template <int Operands> struct Record {
  char *data[Operands];
  double coefficient;
  uint32_t first_chunk;
  uint16_t geometry;
  uint8_t dtypes; // two bits an operand
  uint8_t zero;
  SKREG_INLINE Dtype dtype(int operand) const { return Dtype(dtypes >> (2 * operand) & 3); }
};
static_assert(sizeof(Record<2>) == 32);

// For exponentiate="layer": what the gradients have to know of a layer's sum.
struct LayerFactors {
  double slope, curvature;
};

// What all launches of one call share. A null pointer: not wanted.
struct Call {
  Options options;
  bool add;        // into the results instead of overwriting them
  bool wide;       // values and total are double, otherwise float
  bool scale_wide; // the same of scale
  const void *scale;
  LayerFactors *factors; // a layer; with them a launch has two rounds, see rounds.cuh
  Sums *partials;        // a chunk
  double *weighted;      // a layer: coefficient * value, or for the Hessian coefficient * slope
  void *values;          // a layer
  void *total;
};

#if CUDART_VERSION >= 12010
constexpr int kArgumentBytes = 32764;
#else
constexpr int kArgumentBytes = 4096;
#endif

// Records fill the storage from the front, geometries from the back.
template <int Operands> struct Arguments {
  static constexpr int capacity = (kArgumentBytes - int(sizeof(Call)) - 6 * int(sizeof(int))) / 8 * 8;

  Call call;
  int layers, first_layer;
  uint32_t chunks, counters; // `counters`: the first of this launch's
  bool last;                 // launch of the call
  int geometries;
  alignas(8) unsigned char storage[capacity];

  SKREG_INLINE const Record<Operands> &record(int i) const {
    return reinterpret_cast<const Record<Operands> *>(storage)[i];
  }
  SKREG_INLINE const Geometry<Operands> &geometry(int i) const {
    return reinterpret_cast<const Geometry<Operands> *>(storage + capacity)[-1 - i];
  }
  SKREG_INLINE uint32_t end_chunk(int i) const { return i + 1 < layers ? record(i + 1).first_chunk : chunks; }
};
static_assert(sizeof(Arguments<1>) <= kArgumentBytes && sizeof(Arguments<2>) <= kArgumentBytes &&
              sizeof(Arguments<3>) <= kArgumentBytes);

// A launch has counters of its own among these, in a ring; launches that are being captured, whose graph keeps them,
// have a ring to themselves. See penalty.cu.
constexpr uint32_t kCounters = 1 << 18;

// Blocks that are done: of a layer, of all. With two rounds also blocks that have begun, and layers whose sum is known.
inline uint32_t counters_of(int layers, bool two_rounds) { return (two_rounds ? 2 : 1) * (uint32_t(layers) + 1); }

template <Work work> constexpr int kOperands = work == Work::sums ? 1 : work == Work::gradients ? 2 : 3;

template <Work work>
cudaError_t launch_penalty(const Arguments<kOperands<work>> &arguments, int shared_bytes, cudaStream_t stream);
cudaError_t launch_scale(const Arguments<1> &arguments, cudaStream_t stream);

} // namespace skreg
