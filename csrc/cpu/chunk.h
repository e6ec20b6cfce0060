// A chunk of one layer at one SIMD level, tile by tile: a tile's kernels are made vectors, computed, collected in the
// cache and written out in runs that are as long as the layout allows.
#pragma once

#include "compute.h"
#include "convert.h"
#include "flat.h"
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
  int64_t *offset_stage;                        // and where they lie in a stage

  Stages(void *scratch, int64_t n, int64_t tile) {
    const int64_t elements = (tile * n + 4 + 15) / 16 * 16 + 16;
    k = static_cast<S *>(scratch);
    v = k + elements;
    result = v + elements;
    dynamic = reinterpret_cast<Vector *>(result + elements);
    offset_k = reinterpret_cast<int64_t *>(dynamic + 3 * n);
    offset_v = offset_k + n;
    offset_result = offset_v + n;
    offset_stage = offset_result + n;
    for (int64_t p = 0; p < n; p++)
      offset_stage[p] = p * tile;
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

  // One tile: load(operand, i, k or v) makes vectors of kernels i and on, store(i, out) takes their gradients times
  // `factor`, or what the Hessian gives. With exp per kernel a tile's scores come first and its exponentials then,
  // because one after the other each would wait for a long chain of operations; what the gradients still have to be
  // multiplied by is left in `factors`.
  template <Work work, bool exponentiate, class Load, class Store>
  SKREG_INLINE void compute_tile(int count, Vector factor, Vector *factors, Load &&load, Store &&store) {
    Vector score{}, slope{}; // local: what lives behind `this` would go through memory
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
          value = computed.value_and_slope(k, out, factor);
          store(i, out);
        }
        if (exponentiate && work != Work::hessian)
          factors[i / width] = value;
        else
          score += value;
      });
    if constexpr (exponentiate && work != Work::hessian)
      score += exponentiate_tile(count, computed.coefficient, factors,
                                 [](Vector x, int kernels) { return Compute<S, Shape>::first_lanes(x, kernels); });
    score_sum.add(score);
    slope_sum.add(slope);
  }

  // From scores to coefficient * exp'(score), in place; returns the sum of exp(score), lane by lane.
  template <class First>
  SKREG_INLINE Vector exponentiate_tile(int count, S coefficient, Vector *scores, First &&first_kernels) const {
    Vector sum{};
    for (int i = 0; i < count; i += width) {
      const auto f = exponential(scores[i / width], computed.max_exponent);
      sum += count - i < width ? first_kernels(f.value, count - i) : f.value;
      scores[i / width] = f.slope * coefficient;
    }
    return sum;
  }

  template <Work work, bool exponentiate> void run_packed(int64_t begin, int64_t end) {
    const int64_t n = shape.size;
    constexpr bool later = exponentiate && work == Work::gradients;
    Vector factors[kTileVectors], *unscaled = reinterpret_cast<Vector *>(stages.v);
    const Vector factor = Vector{} + (later ? 1 : computed.coefficient);
    for (int64_t t = begin; t < end; t += tile) {
      const int count = int(end - t < tile ? end - t : tile);
      const S *source = packed_source(layer.weight, t, count, stages.k);
      const S *direction = work == Work::hessian ? packed_source(layer.vector, t, count, stages.v) : nullptr;
      compute_tile<work, exponentiate>(
          count, factor, factors,
          [&](const Operand &from, int i, Vector *k) SKREG_INLINE_LAMBDA {
            const S *kernels = (&from == &layer.weight ? source : direction) + i * n;
            prefetch_ahead(kernels, width * n * int64_t(sizeof(S)));
            Packed<S, Shape>::load(shape, kernels, k);
          },
          [&](int i, const Vector *out) SKREG_INLINE_LAMBDA {
            if constexpr (later)
              for_each_position(shape, [&](auto p) SKREG_INLINE_LAMBDA { unscaled[i / width * n + p] = out[p]; });
            else
              Packed<S, Shape>::store(shape, out, stages.result + i * n);
          });
      if constexpr (later)
        for (int i = 0; i < count; i += width)
          with_arrays([&](Vector *, Vector *, Vector *out) SKREG_INLINE_LAMBDA {
            for_each_position(
                shape, [&](auto p) SKREG_INLINE_LAMBDA { out[p] = unscaled[i / width * n + p] * factors[i / width]; });
            Packed<S, Shape>::store(shape, out, stages.result + i * n);
          });
      if constexpr (work != Work::sums)
        narrow(stages.result, layer.result, t * n, count * n, pass.add, pass.stream);
    }
  }

  static constexpr bool can_be_flat = std::is_same_v<S, float> && std::is_same_v<Shape, StaticShape<1, 3, 3, 1>>;
  static constexpr int kFlatTile = 64;

  // Where a tile can be read with a margin on both sides: in place, or widened with zeros behind it.
  const float *flat_source(int64_t begin, int count) const {
    const int64_t first = begin * 9 - Flat::margin, padded = (count + width - 1) / width * width;
    if (layer.weight.dtype == Dtype::float32 && first >= 0 &&
        (begin + padded) * 9 + Flat::margin <= layer.kernels() * 9)
      return reinterpret_cast<const float *>(layer.weight.data) + begin * 9;
    float *stage = stages.k + 16;
    widen(layer.weight, begin * 9, count * 9, stage);
    std::memset(stage + count * 9, 0, ((padded - count) * 9 + Flat::margin) * sizeof(float));
    return stage;
  }

  // As `compute_tile`, for kernels that `Flat` can compute. The results go straight to memory, in whole vectors.
  template <Work work, bool exponentiate, bool subtract, Output output>
  SKREG_INLINE void flat_tile(const float *k, int count, float *to) {
    const Vector twice = Vector{} + 2 * computed.coefficient;
    Vector score{}, factors[kTileVectors], *unscaled = reinterpret_cast<Vector *>(stages.v);
    for (int i = 0; i < count; i += width) {
      prefetch_ahead(k + i * 9, width * 9 * int64_t(sizeof(float)));
      const Vector s = Flat::scores<exponentiate, work == Work::gradients, subtract>(
          k + i * 9, [&](auto j, Vector half_slope) SKREG_INLINE_LAMBDA {
            if constexpr (exponentiate)
              unscaled[i / width * 9 + j.value] = half_slope;
            else
              put<output>(to + i * 9 + j.value * width, half_slope * twice);
          });
      if constexpr (exponentiate)
        factors[i / width] = s;
      else
        score += s;
    }
    if constexpr (exponentiate)
      score = exponentiate_tile(count, 2 * computed.coefficient, factors, Flat::first_kernels);
    if constexpr (exponentiate && work == Work::gradients)
      for (int i = 0; i < count; i += width)
        unrolled(std::make_integer_sequence<int, 9>{}, [&](auto j) SKREG_INLINE_LAMBDA {
          const Vector factor = Flat::spread<j.value>(factors[i / width]);
          put<output>(to + i * 9 + j.value * width, unscaled[i / width * 9 + j.value] * factor);
        });
    score_sum.add(score);
  }

  template <Work work, bool exponentiate, bool subtract> void run_flat(int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t += kFlatTile) {
      const int count = int(end - t < kFlatTile ? end - t : kFlatTile);
      const float *source = flat_source(t, count);
      float *to = work == Work::sums ? nullptr : reinterpret_cast<float *>(layer.result.data) + t * 9;
      if (work == Work::sums)
        flat_tile<work, exponentiate, subtract, Output::write>(source, count, nullptr);
      else if (count % width || layer.result.dtype != Dtype::float32) {
        flat_tile<work, exponentiate, subtract, Output::write>(source, count, stages.result);
        narrow(stages.result, layer.result, t * 9, count * 9, pass.add, pass.stream);
      } else if (pass.add)
        flat_tile<work, exponentiate, subtract, Output::add>(source, count, to);
      else if (pass.stream && is_vector_aligned(to))
        flat_tile<work, exponentiate, subtract, Output::stream>(source, count, to);
      else
        flat_tile<work, exponentiate, subtract, Output::write>(source, count, to);
    }
  }

  // Kernels anywhere: a tile holds neighbours of one row, and of each position a run of them.
  template <Work work, bool exponentiate> void run_strided(int64_t begin, int64_t end) {
    fill_offsets(layer.weight, stages.offset_k);
    fill_offsets(layer.vector, stages.offset_v);
    fill_offsets(layer.result, stages.offset_result);
    Vector factors[kTileVectors];
    S *unscaled = stages.v; // of the Hessian nothing is left to scale, and its vectors need the stage
    for (int64_t first = begin; first < end;) {
      const int64_t row = first / layer.inner, column = first % layer.inner;
      const int64_t left = end - first < layer.inner - column ? end - first : layer.inner - column;
      const int count = int(left < tile ? left : tile);
      const bool in_place = layer.weight.dtype == dtype_of<S>() && layer.weight.inner_stride == 1 && count % width == 0;
      const S *weights = reinterpret_cast<const S *>(layer.weight.data) + row * layer.weight.outer_stride + column;
      const int64_t *offset = stages.offset_k;
      if (!in_place) {
        stage_runs(layer.weight, row, column, count, stages.offset_k, stages.k);
        weights = stages.k;
        offset = stages.offset_stage;
      }
      const int64_t ahead = count == left ? layer.weight.outer_stride - column : count; // to the next tile
      if constexpr (work == Work::hessian)
        stage_runs(layer.vector, row, column, count, stages.offset_v, stages.v);
      S *collected = work == Work::hessian ? stages.result : unscaled;
      compute_tile<work, exponentiate>(
          count, Vector{} + 1, factors,
          [&](const Operand &from, int i, Vector *k) SKREG_INLINE_LAMBDA {
            const S *base = (&from == &layer.weight ? weights : stages.v) + i;
            const int64_t *at = &from == &layer.weight ? offset : stages.offset_stage;
            if (in_place && i * int(sizeof(S)) % 64 == 0)
              for_each_position(shape, [&](auto p) SKREG_INLINE_LAMBDA { __builtin_prefetch(base + at[p] + ahead); });
            for_each_position(
                shape, [&](auto p) SKREG_INLINE_LAMBDA { k[p] = *reinterpret_cast<const Anywhere *>(base + at[p]); });
          },
          [&](int i, const Vector *out) SKREG_INLINE_LAMBDA {
            for_each_position(shape, [&](auto p) SKREG_INLINE_LAMBDA {
              *reinterpret_cast<Anywhere *>(collected + p * tile + i) = out[p];
            });
          });
      const int64_t to = row * layer.result.outer_stride + column * layer.result.inner_stride;
      for (int64_t p = 0; p < shape.size && work != Work::sums; p++) {
        const int64_t at = to + stages.offset_result[p];
        if constexpr (work == Work::hessian)
          narrow_run(collected + p * tile, layer.result, at, count, pass.add, pass.stream);
        else
          scale_run<exponentiate>(collected + p * tile, factors, at, count);
      }
      first += count;
    }
  }

  // Writes the gradients of one position of a tile's kernels.
  template <bool exponentiate>
  SKREG_INLINE void scale_run(const S *unscaled, const Vector *factors, int64_t at, int count) const {
    const auto scale = [&](auto output, S *to) SKREG_INLINE_LAMBDA {
      for (int i = 0; i < count; i += width) {
        const Vector factor = exponentiate ? factors[i / width] : Vector{} + computed.coefficient;
        put<Output(output.value)>(to + i, *reinterpret_cast<const Anywhere *>(unscaled + i) * factor);
      }
    };
    S *to = reinterpret_cast<S *>(layer.result.data) + at;
    if (layer.result.dtype != dtype_of<S>() || layer.result.inner_stride != 1 || count % width) {
      scale(Index<int(Output::write)>{}, stages.result);
      narrow_run(stages.result, layer.result, at, count, pass.add, pass.stream);
    } else if (pass.add)
      scale(Index<int(Output::add)>{}, to);
    else if (pass.stream && is_vector_aligned(to))
      scale(Index<int(Output::stream)>{}, to);
    else
      scale(Index<int(Output::write)>{}, to);
  }

  using Anywhere = typename VectorOf<S>::anywhere;

  // Stages of every position the run of `count` kernels, with zeros behind it.
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
    const bool in_order = packed(layer.weight) && packed(layer.vector) && packed(layer.result);
    if constexpr (can_be_flat && work != Work::hessian) {
      if (in_order && computed.normalize != kDivide) {
        computed.normalize == kSubtract ? run_flat<work, exponentiate, true>(begin, end)
                                        : run_flat<work, exponentiate, false>(begin, end);
        if (pass.stream)
          stream_fence();
        return {score_sum.total(), 0};
      }
    }
    if (shape.size <= kPackedSize && in_order)
      run_packed<work, exponentiate>(begin, end);
    else
      run_strided<work, exponentiate>(begin, end);
    if (pass.stream)
      stream_fence();
    return {score_sum.total(), slope_sum.total()};
  }
};

} // namespace SKREG_ARITHMETIC
