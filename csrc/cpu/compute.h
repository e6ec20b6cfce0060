// Value and gradient of one vector of kernels, one kernel a lane.
#pragma once

#include "simd.h"

#include "../layer.h"

namespace SKREG_ARITHMETIC {

using skreg::Layer;
using skreg::Pass;
using skreg::Work;

// Sums over kernels, lane by lane: a tile's in the type that is computed with, a chunk's in double.
template <class S> struct Accumulator {
  static constexpr int width = VectorOf<S>::width;
  double lanes[width] = {};

  SKREG_INLINE void add(typename VectorOf<S>::type tile) {
    for (int i = 0; i < width; i++)
      lanes[i] += tile[i];
  }
  double total() const {
    double sum = 0;
    for (double lane : lanes)
      sum += lane;
    return sum;
  }
};

template <class S, class Shape> struct Compute {
  using Vector = typename VectorOf<S>::type;
  static constexpr int width = VectorOf<S>::width;

  const Shape shape;
  const int normalize;
  const bool layer_exponential;
  const S coefficient, curvature, max_exponent;

  Compute(const Layer &layer, const Pass &pass, const Shape &shape)
      : shape(shape), normalize(pass.options.normalize), layer_exponential(pass.options.exponentiate == skreg::kLayer),
        coefficient(S(layer.coefficient)), curvature(S(layer.curvature)), max_exponent(S(pass.options.max_exponent)) {}

  SKREG_INLINE Score<Vector> score_of(const Vector *k, Vector d) const {
    return score(normalize, d, normalize == kNoNormalize ? Vector{} : dot(shape, k, k));
  }

  SKREG_INLINE Vector value(const Vector *k) const { return score_of(k, difference(shape, k)).value; }

  // Writes `factor` times dS/dk and returns S.
  SKREG_INLINE Vector value_and_slope(const Vector *k, Vector *out, Vector factor) const {
    const Score<Vector> s = score_of(k, laplacian(shape, k, out));
    const Vector a = factor * s.a, b = factor * s.b;
    for_each_position(shape, [&](auto p) SKREG_INLINE_LAMBDA { out[p] = a * out[p] + b * k[p]; });
    return s.value;
  }

  // Writes the Hessian times v; returns S or exp(S), and <dS/dk, v> times its slope.
  SKREG_INLINE std::pair<Vector, Vector> hessian(const Vector *k, const Vector *v, Vector *out,
                                                 bool exponentiate) const {
    const Score<Vector> s = score_of(k, laplacian(shape, k, out));
    const Vector k_v = dot(shape, k, v), slope_v = s.a * dot(shape, out, v) + s.b * k_v;
    Exponential<Vector> f{s.value, Vector{} + 1, Vector{}};
    if (exponentiate)
      f = exponential(s.value, max_exponent);
    const Vector outer = layer_exponential ? Vector{} + curvature : f.curvature * slope_v * coefficient;
    const auto factors = hessian_factors(s, outer, f.slope * coefficient, slope_v, k_v);
    for_each_position(
        shape, [&](auto p) SKREG_INLINE_LAMBDA { out[p] = factors.lk * out[p] + factors.k * k[p] + factors.v * v[p]; });
    for_each_pair(shape, [&](auto pair) SKREG_INLINE_LAMBDA {
      const Vector d = factors.lv * (v[pair.p] - v[pair.q]);
      out[pair.p] += d;
      out[pair.q] -= d;
    });
    return {f.value, f.slope * slope_v};
  }

  static Vector first_lanes(Vector x, int active) {
    Vector result{};
    for (int i = 0; i < width && i < active; i++)
      result[i] = x[i];
    return result;
  }
};

} // namespace SKREG_ARITHMETIC
