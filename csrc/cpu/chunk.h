// A chunk of one layer at one SIMD level, tile by tile: a tile's kernels are made vectors, computed, collected in the
// cache and written out in runs that are as long as the layout allows.
#pragma once

#include "compute.h"
#include "convert.h"
#include "packed.h"

namespace SKREG_ARITHMETIC {

using skreg::kPackedSize;
using skreg::Sums;
using skreg::tile_kernels;

// What a chunk needs besides its operands: cut from the thread's scratch memory.
template <class S> struct Stages {
  using Vector = typename VectorOf<S>::type;
  S *k, *v, *result;                            // a tile of each operand
  Vector *dynamic;                              // three kernels' vectors
  int64_t *offset_k, *offset_v, *offset_result; // where a kernel's positions lie

  Stages(void *scratch, int64_t n, int64_t tile) {
    const int64_t elements = (tile * n + 4 + 15) / 16 * 16;
    k = static_cast<S *>(scratch);
    v = k + elements;
    result = v + elements;
    dynamic = reinterpret_cast<Vector *>(result + elements);
    offset_k = reinterpret_cast<int64_t *>(dynamic + 3 * n);
    offset_v = offset_k + n;
    offset_result = offset_v + n;
  }
};

template <class S, class Shape> struct Chunk {
  using Vector = typename VectorOf<S>::type;
  static constexpr int width = VectorOf<S>::width, kTileVectors = int(skreg::kLargestTile) / width;

  const Layer &layer;
  const Pass &pass;
  const Shape shape;
  const Compute<S, Shape> computed;
  const int64_t tile;
  const Stages<S> stages;
  Accumulator<S> score_sum, slope_sum;

  Chunk(const Layer &layer, const Pass &pass, const Shape &shape, void *scratch)
      : layer(layer), pass(pass), shape(shape), computed(layer, pass, shape), tile(tile_kernels(shape.size)),
        stages(scratch, shape.size, tile) {}

  // Arrays of a size known to the compiler live in registers, others in the scratch memory.
  template <class F> SKREG_INLINE void with_arrays(F &&f) const {
    if constexpr (std::is_same_v<Shape, DynamicShape>) {
      f(stages.dynamic, stages.dynamic + shape.size, stages.dynamic + 2 * shape.size);
    } else {
      Vector k[Shape::size], v[Shape::size], out[Shape::size];
      f(k, v, out);
    }
  }

  // Where `count` packed kernels can be read by whole vectors: in place, or widened with zeros behind them.
  const S *packed_source(const Operand &from, int64_t begin, int count, S *stage) const {
    const int64_t n = shape.size, padded = (count + width - 1) / width * width;
    if (from.dtype == dtype_of<S>() && (begin + padded) * n + 3 <= layer.kernels() * n)
      return reinterpret_cast<const S *>(from.data) + begin * n;
    widen(from, begin * n, count * n, stage);
    std::memset(stage + count * n, 0, ((padded - count) * n + 3) * sizeof(S));
    return stage;
  }

  // One tile: load(i, k or v) makes vectors of kernels i and on, store(i, out) takes their results.
  //
  // With exp per kernel it goes in three rounds, because a single one would wait for the exponential's long chain of
  // operations in every vector: scores and unscaled gradients, all exponentials, products.
  template <Work work, bool exponentiate, class Load, class Store>
  SKREG_INLINE void run_tile(int count, Load &&load, Store &&store) {
    Vector score{}, slope{}; // local: what lives behind `this` would go through memory
    Vector values[kTileVectors];
    const Vector coefficient = Vector{} + computed.coefficient;
    Vector *unscaled = reinterpret_cast<Vector *>(stages.v);
    for (int i = 0; i < count; i += width)
      with_arrays([&](Vector *k, Vector *v, Vector *out) SKREG_INLINE_LAMBDA {
        load(layer.weight, i, k);
        Vector value;
        if constexpr (work == Work::hessian) {
          load(layer.vector, i, v);
          const auto [f, product] = computed.hessian(k, v, out, exponentiate);
          value = exponentiate ? Compute<S, Shape>::first_lanes(f, count - i) : f;
          slope += product; // lanes without a kernel hold zeros
          store(i, out);
        } else if constexpr (work == Work::sums) {
          value = computed.value(k);
        } else {
          value = computed.value_and_slope(k, out, exponentiate ? Vector{} + 1 : coefficient);
          if constexpr (exponentiate)
            for_each_position(shape,
                              [&](auto p) SKREG_INLINE_LAMBDA { unscaled[i / width * shape.size + p] = out[p]; });
          else
            store(i, out);
        }
        if (exponentiate && work != Work::hessian)
          values[i / width] = value;
        else
          score += value;
      });
    if constexpr (exponentiate && work != Work::hessian) {
      for (int i = 0; i < count; i += width) {
        const auto f = exponential(values[i / width], computed.max_exponent);
        score += count - i < width ? Compute<S, Shape>::first_lanes(f.value, count - i) : f.value;
        values[i / width] = f.slope * coefficient;
      }
      if constexpr (work == Work::gradients)
        for (int i = 0; i < count; i += width)
          with_arrays([&](Vector *, Vector *, Vector *out) SKREG_INLINE_LAMBDA {
            for_each_position(shape, [&](auto p) SKREG_INLINE_LAMBDA {
              out[p] = unscaled[i / width * shape.size + p] * values[i / width];
            });
            store(i, out);
          });
    }
    score_sum.add(score);
    slope_sum.add(slope);
  }

  template <Work work, bool exponentiate> void run_packed(int64_t begin, int64_t end) {
    const int64_t n = shape.size;
    for (int64_t t = begin; t < end; t += tile) {
      const int count = int(end - t < tile ? end - t : tile);
      const S *source = packed_source(layer.weight, t, count, stages.k);
      const S *direction = work == Work::hessian ? packed_source(layer.vector, t, count, stages.v) : nullptr;
      run_tile<work, exponentiate>(
          count,
          [&](const Operand &from, int i, Vector *k) SKREG_INLINE_LAMBDA {
            Packed<S, Shape>::load(shape, (&from == &layer.weight ? source : direction) + i * n, k);
          },
          [&](int i, const Vector *out)
              SKREG_INLINE_LAMBDA { Packed<S, Shape>::store(shape, out, stages.result + i * n); });
      if constexpr (work != Work::sums)
        narrow(stages.result, layer.result, t * n, count * n, pass.add, pass.stream);
    }
  }

  // Kernels anywhere: a tile holds neighbours of one row, and of each position a run of them.
  template <Work work, bool exponentiate> void run_strided(int64_t begin, int64_t end) {
    fill_offsets(layer.weight, stages.offset_k);
    fill_offsets(layer.vector, stages.offset_v);
    fill_offsets(layer.result, stages.offset_result);
    for (int64_t first = begin; first < end;) {
      const int64_t row = first / layer.inner, column = first % layer.inner;
      const int64_t left = end - first < layer.inner - column ? end - first : layer.inner - column;
      const int count = int(left < tile ? left : tile);
      stage_runs(layer.weight, row, column, count, stages.offset_k, stages.k);
      if constexpr (work == Work::hessian)
        stage_runs(layer.vector, row, column, count, stages.offset_v, stages.v);
      run_tile<work, exponentiate>(
          count,
          [&](const Operand &from, int i, Vector *k) SKREG_INLINE_LAMBDA {
            const S *stage = &from == &layer.weight ? stages.k : stages.v;
            for_each_position(shape, [&](auto p) SKREG_INLINE_LAMBDA {
              k[p] = *reinterpret_cast<const Anywhere *>(stage + p * tile + i);
            });
          },
          [&](int i, const Vector *out) SKREG_INLINE_LAMBDA {
            for_each_position(shape, [&](auto p) SKREG_INLINE_LAMBDA {
              *reinterpret_cast<Anywhere *>(stages.result + p * tile + i) = out[p];
            });
          });
      const int64_t to = row * layer.result.outer_stride + column * layer.result.inner_stride;
      if constexpr (work != Work::sums)
        for (int64_t p = 0; p < shape.size; p++)
          narrow_run(stages.result + p * tile, layer.result, to + stages.offset_result[p], count, pass.add,
                     pass.stream);
      first += count;
    }
  }

  using Anywhere = typename VectorOf<S>::anywhere;

  // Stages of every position the run of `count` kernels, with zeros behind it. Reading in place would hop from run to
  // run in every vector, which processors do not foresee.
  void stage_runs(const Operand &from, int64_t row, int64_t column, int count, const int64_t *offset, S *stage) const {
    const int64_t base = row * from.outer_stride + column * from.inner_stride;
    const int padded = (count + width - 1) / width * width;
    for (int64_t p = 0; p < shape.size; p++) {
      widen_run(from, base + offset[p], count, stage + p * tile);
      std::memset(stage + p * tile + count, 0, (padded - count) * sizeof(S));
    }
  }

  void fill_offsets(const Operand &o, int64_t *offset) const {
    for (int64_t z = 0; z < layer.shape.depth; z++)
      for (int64_t y = 0; y < layer.shape.height; y++)
        for (int64_t x = 0; x < layer.shape.width; x++)
          *offset++ = z * o.stride[0] + y * o.stride[1] + x * o.stride[2];
  }

  bool packed(const Operand &o) const {
    const DynamicShape &s = layer.shape;
    const bool kernel = o.stride[2] == 1 && (s.height == 1 || o.stride[1] == s.width) &&
                        (s.depth == 1 || o.stride[0] == s.width * s.height);
    return !o.data || (kernel && layer.outer == 1 && o.inner_stride == s.size);
  }

  template <Work work, bool exponentiate> Sums run(int64_t begin, int64_t end) {
    if (shape.size <= kPackedSize && packed(layer.weight) && packed(layer.vector) && packed(layer.result))
      run_packed<work, exponentiate>(begin, end);
    else
      run_strided<work, exponentiate>(begin, end);
    if (pass.stream)
      stream_fence();
    return {score_sum.total(), slope_sum.total()};
  }
};

} // namespace SKREG_ARITHMETIC
