// Picks the code compiled for a layer's kernel size. Included by one source file a SIMD level.
#pragma once

#include "chunk.h"

namespace SKREG_ARITHMETIC {

template <class S, class Shape>
Sums run_shape(const Layer &layer, const Pass &pass, const Shape &shape, int64_t begin, int64_t end, void *scratch) {
  const bool exponentiate = pass.options.exponentiate == skreg::kKernel;
  if (pass.work == Work::hessian) { // rare: not worth a copy for every size
    Chunk<S, DynamicShape> chunk(layer, pass, layer.shape, scratch);
    return exponentiate ? chunk.template run<Work::hessian, true>(begin, end)
                        : chunk.template run<Work::hessian, false>(begin, end);
  }
  Chunk<S, Shape> chunk(layer, pass, shape, scratch);
  if (pass.work == Work::sums)
    return exponentiate ? chunk.template run<Work::sums, true>(begin, end)
                        : chunk.template run<Work::sums, false>(begin, end);
  return exponentiate ? chunk.template run<Work::gradients, true>(begin, end)
                      : chunk.template run<Work::gradients, false>(begin, end);
}

template <class S> Sums run(const Layer &layer, const Pass &pass, int64_t begin, int64_t end, void *scratch) {
  const DynamicShape &s = layer.shape;
  const auto is = [&](int d, int h, int w, int c) {
    return s.depth == d && s.height == h && s.width == w && s.connectivity == c;
  };
  if constexpr (std::is_same_v<S, float>) {
    if (is(1, 3, 3, 1))
      return run_shape<S>(layer, pass, StaticShape<1, 3, 3, 1>{}, begin, end, scratch);
    if (is(1, 3, 3, 2))
      return run_shape<S>(layer, pass, StaticShape<1, 3, 3, 2>{}, begin, end, scratch);
    if (is(1, 5, 5, 1))
      return run_shape<S>(layer, pass, StaticShape<1, 5, 5, 1>{}, begin, end, scratch);
    if (is(1, 7, 7, 1))
      return run_shape<S>(layer, pass, StaticShape<1, 7, 7, 1>{}, begin, end, scratch);
    if (is(1, 1, 3, 1))
      return run_shape<S>(layer, pass, StaticShape<1, 1, 3, 1>{}, begin, end, scratch);
  }
  return run_shape<S>(layer, pass, s, begin, end, scratch);
}

} // namespace SKREG_ARITHMETIC

namespace skreg {

Sums SKREG_CHUNK_FUNCTION(const Layer &layer, const Pass &pass, int64_t begin, int64_t end, void *scratch) {
  if (layer.weight.dtype == Dtype::float64)
    return SKREG_ARITHMETIC::run<double>(layer, pass, begin, end, scratch);
  return SKREG_ARITHMETIC::run<float>(layer, pass, begin, end, scratch);
}

} // namespace skreg
