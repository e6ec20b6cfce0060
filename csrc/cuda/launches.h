// From layers to launches: as many records as fit go into one launch.
#pragma once

#include <cstring>
#include <limits>
#include <vector>

#include "../arguments.h"
#include "records.h"

namespace skreg {

inline bool follows_gapless(const Layer &layer, const Operand &o) {
  const DynamicShape &s = layer.shape;
  return o.stride[2] == 1 && (s.height == 1 || o.stride[1] == s.width) &&
         (s.depth == 1 || o.stride[0] == s.width * s.height) && o.inner_stride == s.size &&
         (layer.outer == 1 || o.outer_stride == layer.inner * o.inner_stride);
}

inline Kind kind_of(const Layer &layer) {
  const DynamicShape &s = layer.shape;
  const auto is = [&](int64_t height, int64_t width, int connectivity) {
    return s.depth == 1 && s.height == height && s.width == width && s.connectivity == connectivity;
  };
  if (layer.weight.dtype == Dtype::float64)
    return Kind::generic;
  return is(1, 3, 1)   ? Kind::taps3
         : is(3, 3, 1) ? Kind::square3
         : is(3, 3, 2) ? Kind::square3_diagonal
         : is(5, 5, 1) ? Kind::square5
         : is(7, 7, 1) ? Kind::square7
                       : Kind::generic;
}

// Binary logarithm of the threads a kernel: 0 where neighbouring kernels are nearer in memory than neighbouring
// elements.
inline int lane_bits_of(const Layer &layer) {
  const Operand &w = layer.weight;
  if (layer.inner > 1 && std::abs(w.inner_stride) < std::abs(w.stride[2]))
    return 0;
  int bits = 0;
  while (bits < 5 && 1 << bits < layer.shape.size)
    bits++;
  return bits;
}

// Kernels a block: a property of the layer alone, so that its sums do not depend on what else is in the call.
inline int chunk_of(const Layer &layer, Kind kind, int lane_bits) {
  const int64_t size = std::max<int64_t>(layer.shape.size, 1), fit = kStagedElements / size;
  if (kind != Kind::generic)
    return int(std::min<int64_t>(fit / 64 * 64, 1024));
  const int64_t together = kThreads >> lane_bits;
  return int(std::clamp<int64_t>(fit / together, 1, 16) * together);
}

template <int Operands> Geometry<Operands> make_geometry(const Layer &layer) {
  const DynamicShape &s = layer.shape;
  constexpr int64_t limit = std::numeric_limits<int>::max();
  STD_TORCH_CHECK(s.size <= limit && s.depth <= limit && s.height <= limit && s.width <= limit,
                  "weights: expected kernels of at most ", limit, " elements on CUDA, found ", s.size);
  const Operand *operands[] = {&layer.weight, &layer.result, &layer.vector};
  Geometry<Operands> g;
  std::memset(&g, 0, sizeof g);
  g.kernels = layer.kernels();
  g.inner = std::max<int64_t>(layer.inner, 1);
  g.shape = {int(s.depth), int(s.height), int(s.width), s.connectivity, int(s.size)};
  g.kind = kind_of(layer);
  g.lane_bits = lane_bits_of(layer);
  g.chunk = chunk_of(layer, g.kind, g.lane_bits);
  for (int o = 0; o < Operands; o++) {
    const Operand &from = *operands[o];
    g.strides[o] = {from.outer_stride, from.inner_stride, {from.stride[0], from.stride[1], from.stride[2]}};
    g.packed |= uint8_t(follows_gapless(layer, from) << o);
  }
  return g;
}

template <int Operands> uint32_t chunks_of(const Geometry<Operands> &g) {
  const int64_t kernels = g.shape.size == 0 ? 0 : g.kernels;
  return uint32_t(std::max<int64_t>((kernels + g.chunk - 1) / g.chunk, 1)); // an empty layer has a value too
}

// The arguments of one launch as they fill up.
template <int Operands> class Filling {
public:
  explicit Filling(const Call &call, int first_layer) {
    arguments.call = call;
    arguments.first_layer = first_layer;
    arguments.layers = arguments.geometries = 0;
    arguments.chunks = 0;
  }

  // False when there is no place for another layer.
  bool add(const Layer &layer, const Geometry<Operands> &geometry) {
    Arguments<Operands> &a = arguments;
    int known = a.geometries;
    while (known > 0 && std::memcmp(&a.geometry(known - 1), &geometry, sizeof geometry) != 0)
      known--;
    const size_t bytes = (a.layers + 1) * sizeof(Record<Operands>) + (a.geometries + !known) * sizeof geometry;
    const uint64_t chunks = uint64_t(a.chunks) + chunks_of(geometry);
    if (bytes > size_t(a.capacity) || chunks > uint64_t(std::numeric_limits<int>::max() / 2)) // two rounds
      return false;
    if (!known) {
      known = ++a.geometries;
      std::memcpy(const_cast<Geometry<Operands> *>(&a.geometry(known - 1)), &geometry, sizeof geometry);
    }
    const Operand *operands[] = {&layer.weight, &layer.result, &layer.vector};
    Record<Operands> record{};
    for (int o = 0; o < Operands; o++) {
      record.data[o] = operands[o]->data;
      record.dtypes |= uint8_t(int(operands[o]->dtype) << (2 * o));
    }
    record.coefficient = layer.coefficient;
    record.first_chunk = a.chunks;
    record.geometry = uint16_t(known - 1);
    std::memcpy(const_cast<Record<Operands> *>(&a.record(a.layers++)), &record, sizeof record);
    a.chunks = uint32_t(chunks);
    const int staged = (Operands == 3 ? 2 : 1) * geometry.chunk * geometry.shape.size * int(sizeof(float));
    shared_bytes =
        std::max(shared_bytes, geometry.kind == Kind::generic ? kThreads * int(sizeof(ThreadState)) : staged);
    return true;
  }

  Arguments<Operands> arguments;
  int shared_bytes = 0;
};

// Calls launch(filling) for all layers, in order.
template <int Operands, class Launch>
void for_each_launch(const std::vector<Layer> &layers, const std::vector<Geometry<Operands>> &geometries, Call call,
                     Launch &&launch) {
  size_t i = 0;
  while (i < layers.size()) {
    Filling<Operands> filling(call, int(i));
    while (i < layers.size() && filling.add(layers[i], geometries[i]))
      i++;
    STD_TORCH_CHECK(filling.arguments.layers > 0, "weights[", i, "]: too large for one launch");
    filling.arguments.last = i == layers.size();
    launch(filling);
    if (call.partials)
      call.partials += filling.arguments.chunks;
  }
}

} // namespace skreg
