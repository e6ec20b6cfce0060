// One weight as the operators see it: outer x inner kernels of up to three dimensions, wherever their elements lie.
#pragma once

#include <cstdint>

#include "penalty.h"

namespace skreg {

enum class Dtype : int { float32, float64, bfloat16, float16 };

// The CPU operator works through tiles of so many kernels: what it reads, computes and writes of them fits into the
// first cache, and a channels_last weight is read in runs as long. Larger kernels come in smaller tiles.
constexpr int64_t kPackedSize = 256;
constexpr int64_t kLargestTile = 256;
constexpr int64_t tile_kernels(int64_t size) { return size <= 9 ? kLargestTile : size <= kPackedSize ? 64 : 16; }

struct Operand {
  char *data = nullptr;
  Dtype dtype{};
  int64_t outer_stride = 0, inner_stride = 0, stride[3] = {}; // in elements
};

struct Layer {
  int64_t outer = 0, inner = 0; // kernel i is (i / inner, i % inner)
  DynamicShape shape{};         // without unit dimensions
  Operand weight, vector, result;
  double coefficient = 0; // times the upstream scale, and divided by the kernels for reduction="mean"
  double curvature = 0;   // exponentiate="layer", Hessian-vector product: the factor of the score's gradient
  SKREG_INLINE int64_t kernels() const { return outer * inner; }
};

enum class Work : int { sums, gradients, hessian };

struct Options {
  int normalize, exponentiate;
  bool mean;
  int connectivity;
  double max_exponent;
};

// What one pass over a layer does.
struct Pass {
  Work work;
  Options options;
  bool add;    // into the result instead of overwriting it
  bool stream; // the results are larger than the caches: write around them
};

// What one chunk of a layer adds up.
struct Sums {
  double score = 0; // of S, or of exp(S) for exponentiate="kernel"
  double slope = 0; // of <dS/dk, v>, times exp(S) for exponentiate="kernel"
};

} // namespace skreg
