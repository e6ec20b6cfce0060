// A chunk of one layer at one SIMD level: vectors of kernels, one kernel a lane.
//
// Packed kernels (each contiguous, one after the other) are read and written through 4x4 transposes of groups of
// lanes; kernels with any other strides lane by lane, which is one vector load where lanes are neighbours in memory
// (channels_last).
#pragma once

#include "convert.h"

namespace SKREG_ARITHMETIC {

using skreg::kPackedSize;
using skreg::kTile;
using skreg::Layer;
using skreg::Operand;
using skreg::Pass;
using skreg::Sums;
using skreg::Work;

template <class S, class Shape> struct Chunk {
  using Vector = typename VectorOf<S>::type;
  static constexpr int width = VectorOf<S>::width;
  static constexpr bool is_static = !std::is_same_v<Shape, DynamicShape>;

  const Layer &layer;
  const Pass &pass;
  const Shape shape;
  using Doubles = typename VectorOf<S>::doubles;
  Doubles score_sum{}, slope_sum{};

  // Computes one vector of kernels: `out` gets the result (and serves as scratch), `active` lanes count.
  template <Work work> SKREG_INLINE void compute(const Vector *k, const Vector *v, Vector *out, int active) {
    const auto &options = pass.options;
    const Vector zero{};
    const Vector d = work == Work::sums ? difference(shape, k) : laplacian(shape, k, out);
    const Vector e = options.normalize == kNoNormalize ? zero : dot(shape, k, k);
    const Score<Vector> s = score(options.normalize, d, e);
    Exponential<Vector> f{s.value, zero + 1, zero};
    if (options.exponentiate == kKernel)
      f = exponential(s.value, S(options.max_exponent));
    Vector slope{};
    if constexpr (work == Work::hessian) {
      const Vector k_v = dot(shape, k, v), slope_v = s.a * dot(shape, out, v) + s.b * k_v;
      slope = f.slope * slope_v;
      finish_hessian(k, v, out, s, f, slope_v, k_v);
    } else if constexpr (work == Work::gradients) {
      const Vector factor = f.slope * S(layer.coefficient), a = factor * s.a, b = factor * s.b;
      for_each_position(shape, [&](auto p) { out[p] = a * out[p] + b * k[p]; });
    }
    collect<work>(f.value, slope, active);
  }

  SKREG_INLINE void finish_hessian(const Vector *k, const Vector *v, Vector *out, const Score<Vector> &s,
                                   const Exponential<Vector> &f, Vector slope_v, Vector k_v) {
    const S coefficient = S(layer.coefficient);
    const Vector outer =
        pass.options.exponentiate == kLayer ? Vector{} + S(layer.curvature) : f.curvature * slope_v * coefficient;
    const auto factors = hessian_factors(s, outer, f.slope * coefficient, slope_v, k_v);
    for_each_position(shape, [&](auto p) { out[p] = factors.lk * out[p] + factors.k * k[p] + factors.v * v[p]; });
    for_each_pair(shape, [&](auto p, auto q) {
      const Vector d = factors.lv * (v[p] - v[q]);
      out[p] += d;
      out[q] -= d;
    });
  }

  template <Work work> SKREG_INLINE void collect(Vector score, Vector slope, int active) {
    for (int i = active; i < width; i++)
      score[i] = slope[i] = 0;
    score_sum += __builtin_convertvector(score, Doubles);
    if constexpr (work == Work::hessian)
      slope_sum += __builtin_convertvector(slope, Doubles);
  }

  // Calls f(c) for the first position of every group of four.
  template <class F> SKREG_INLINE void for_each_group(F &&f) const {
    if constexpr (is_static)
      unrolled(std::make_integer_sequence<int, (Shape::size + 3) / 4>{}, [&](auto g) { f(Index<4 * g.value>{}); });
    else
      for (int64_t c = 0; c < shape.size; c += 4)
        f(c);
  }

  // Packed: `p` holds `width` kernels of shape.size elements and at least 3 more.
  SKREG_INLINE void load_packed(const S *p, Vector *k) const {
    const int64_t n = shape.size;
    for_each_group([&](auto c) {
      Vector r0 = load_groups<S>(p + c, n), r1 = load_groups<S>(p + n + c, n);
      Vector r2 = load_groups<S>(p + 2 * n + c, n), r3 = load_groups<S>(p + 3 * n + c, n);
      transpose_groups(r0, r1, r2, r3);
      k[c] = r0;
      if (c + 1 < n)
        k[c + 1] = r1;
      if (c + 2 < n)
        k[c + 2] = r2;
      if (c + 3 < n)
        k[c + 3] = r3;
    });
  }

  SKREG_INLINE void store_packed(const Vector *k, S *p) const {
    const int64_t n = shape.size;
    const Vector zero{};
    for_each_group([&](auto c) {
      Vector r0 = k[c], r1 = c + 1 < n ? k[c + 1] : zero, r2 = c + 2 < n ? k[c + 2] : zero;
      Vector r3 = c + 3 < n ? k[c + 3] : zero;
      transpose_groups(r0, r1, r2, r3);
      if (c + 4 <= n) {
        store_groups<S>(r0, p + c, n);
        store_groups<S>(r1, p + n + c, n);
        store_groups<S>(r2, p + 2 * n + c, n);
        store_groups<S>(r3, p + 3 * n + c, n);
      } else {
        store_rest(r0, p + c, n - c);
        store_rest(r1, p + n + c, n - c);
        store_rest(r2, p + 2 * n + c, n - c);
        store_rest(r3, p + 3 * n + c, n - c);
      }
    });
  }

  // The first `count` < 4 elements of every group of lanes.
  SKREG_INLINE void store_rest(Vector r, S *p, int64_t count) const {
    for (int g = 0; g < width / 4; g++)
      for (int j = 0; j < count; j++)
        p[4 * g * shape.size + j] = r[4 * g + j];
  }

  const S *packed_source(const Operand &from, int64_t begin, int count, S *stage) const {
    const int64_t n = shape.size, padded = (count + width - 1) / width * width;
    if (from.dtype == dtype_of<S>() && (begin + padded) * n + 3 <= layer.kernels() * n)
      return reinterpret_cast<const S *>(from.data) + begin * n;
    widen(from, begin * n, count * n, stage);
    std::memset(stage + count * n, 0, ((padded - count) * n + 3) * sizeof(S));
    return stage;
  }

  template <Work work> void run_packed(int64_t begin, int64_t end, S *scratch) {
    const int64_t n = shape.size, tile = (kTile * n + 4 + 15) / 16 * 16;
    S *stage_k = scratch, *stage_v = stage_k + tile, *result = stage_v + tile;
    Vector *dynamic = reinterpret_cast<Vector *>(scratch + 3 * tile);
    for (int64_t t = begin; t < end; t += kTile) {
      const int count = int(end - t < kTile ? end - t : kTile);
      const S *source = packed_source(layer.weight, t, count, stage_k);
      const S *direction = work == Work::hessian ? packed_source(layer.vector, t, count, stage_v) : nullptr;
      for (int i = 0; i < count; i += width) {
        const int active = count - i < width ? count - i : width;
        with_arrays(dynamic, [&](Vector *k, Vector *v, Vector *out) {
          load_packed(source + i * n, k);
          if constexpr (work == Work::hessian)
            load_packed(direction + i * n, v);
          compute<work>(k, v, out, active);
          if constexpr (work != Work::sums)
            store_packed(out, result + i * n);
        });
      }
      if constexpr (work != Work::sums)
        narrow(result, layer.result, t * n, count * n, pass.add, pass.stream);
    }
    if (pass.stream)
      stream_fence();
  }

  template <Work work> void run_strided(int64_t begin, int64_t end, S *scratch) {
    Vector *dynamic = reinterpret_cast<Vector *>(scratch);
    for (int64_t first = begin; first < end;) {
      const int64_t row = first / layer.inner, column = first % layer.inner;
      int active = int(layer.inner - column < width ? layer.inner - column : width);
      if (end - first < active)
        active = int(end - first);
      with_arrays(dynamic, [&](Vector *k, Vector *v, Vector *out) {
        for_each_element(layer.weight, row, column,
                         [&](auto p, int64_t at) { k[p] = load_lanes<Vector>(layer.weight, at, active); });
        if constexpr (work == Work::hessian)
          for_each_element(layer.vector, row, column,
                           [&](auto p, int64_t at) { v[p] = load_lanes<Vector>(layer.vector, at, active); });
        compute<work>(k, v, out, active);
        if constexpr (work != Work::sums)
          for_each_element(layer.result, row, column,
                           [&](auto p, int64_t at) { store_lanes(out[p], layer.result, at, active, pass.add); });
      });
      first += active;
    }
  }

  // Calls f(p, element) for every position of the kernel at (row, column).
  template <class F> SKREG_INLINE void for_each_element(const Operand &o, int64_t row, int64_t column, F &&f) const {
    const int64_t base = row * o.outer_stride + column * o.inner_stride;
    for_each_position(shape, [&](auto p) {
      const int64_t z = p / (shape.width * shape.height), y = p / shape.width % shape.height, x = p % shape.width;
      f(p, base + z * o.stride[0] + y * o.stride[1] + x * o.stride[2]);
    });
  }

  // Arrays of a size known to the compiler live in registers, others in the scratch memory.
  template <class F> SKREG_INLINE void with_arrays(Vector *dynamic, F &&f) const {
    if constexpr (is_static) {
      Vector k[Shape::size], v[Shape::size], out[Shape::size];
      f(k, v, out);
    } else {
      f(dynamic, dynamic + shape.size, dynamic + 2 * shape.size);
    }
  }

  bool packed(const Operand &o) const {
    const int64_t n = shape.size;
    const bool kernel = o.stride[2] == 1 && (shape.height == 1 || o.stride[1] == shape.width) &&
                        (shape.depth == 1 || o.stride[0] == shape.width * shape.height);
    return !o.data || (kernel && layer.outer == 1 && o.inner_stride == n);
  }

  template <Work work> Sums run(int64_t begin, int64_t end, void *scratch) {
    if (shape.size <= kPackedSize && packed(layer.weight) && packed(layer.vector) && packed(layer.result))
      run_packed<work>(begin, end, static_cast<S *>(scratch));
    else
      run_strided<work>(begin, end, static_cast<S *>(scratch));
    Sums sums;
    for (int i = 0; i < width; i++) {
      sums.score += score_sum[i];
      sums.slope += slope_sum[i];
    }
    return sums;
  }
};

} // namespace SKREG_ARITHMETIC
