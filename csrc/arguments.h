// From the operators' arguments to layers: checks, and the canonical form of a weight.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "layer.h"

namespace skreg {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;

inline Dtype dtype_of(const Tensor &t, const char *what, size_t index) {
  switch (t.scalar_type()) {
  case ScalarType::Float:
    return Dtype::float32;
  case ScalarType::Double:
    return Dtype::float64;
  case ScalarType::BFloat16:
    return Dtype::bfloat16;
  case ScalarType::Half:
    return Dtype::float16;
  default:
    STD_TORCH_CHECK(false, what, "[", index, "]: expected dtype float32, float64, bfloat16 or float16, found ",
                    torch::headeronly::toString(t.scalar_type()));
  }
}

inline Options make_options(int64_t normalize, int64_t exponentiate, bool mean, int64_t connectivity,
                            double max_exponent) {
  STD_TORCH_CHECK(normalize >= 0 && normalize <= 2 && exponentiate >= 0 && exponentiate <= 2,
                  "normalize and exponentiate: expected codes 0 to 2, found ", normalize, " and ", exponentiate);
  STD_TORCH_CHECK(connectivity >= 1 && connectivity <= 3, "connectivity: expected 1, 2 or 3, found ", connectivity);
  return {int(normalize), int(exponentiate), mean, int(connectivity), max_exponent};
}

inline Operand make_operand(const Tensor &t, Dtype dtype, const int *axes) {
  Operand o;
  o.data = static_cast<char *>(t.data_ptr());
  o.dtype = dtype;
  o.outer_stride = t.stride(0);
  o.inner_stride = t.stride(1);
  for (int i = 0; i < 3; i++)
    o.stride[i] = axes[i] ? t.stride(axes[i]) : 0;
  // A dimension of one element has no stride of its own; the innermost counts as contiguous.
  if (!axes[2])
    o.stride[2] = 1;
  return o;
}

// Drops unit dimensions and joins outer and inner where the kernels of all operands follow one another.
inline Layer make_layer(const Tensor &weight, const Tensor *vector, const Tensor *result, const Options &options,
                        double coefficient, size_t index) {
  const int64_t dimensions = weight.dim();
  STD_TORCH_CHECK(dimensions >= 3 && dimensions <= 5, "weights[", index,
                  "]: expected 3 to 5 dimensions (A, B, *spatial), found ", dimensions);
  Layer layer;
  int axes[3] = {}, filled = 3;
  int64_t size[3] = {1, 1, 1}, elements = 1;
  for (int64_t d = dimensions - 1; d >= 2; d--) {
    elements *= weight.sizes()[d];
    if (weight.sizes()[d] != 1) {
      axes[--filled] = int(d);
      size[filled] = weight.sizes()[d];
    }
  }
  layer.shape = {size[0], size[1], size[2], std::clamp(options.connectivity, 1, std::max(1, 3 - filled)), elements};
  layer.outer = weight.sizes()[0];
  layer.inner = weight.sizes()[1];
  layer.weight = make_operand(weight, dtype_of(weight, "weights", index), axes);
  if (vector)
    layer.vector = make_operand(*vector, dtype_of(*vector, "vectors", index), axes);
  if (result)
    layer.result = make_operand(*result, dtype_of(*result, "gradients", index), axes);
  layer.coefficient = options.mean && layer.kernels() > 0 ? coefficient / double(layer.kernels()) : coefficient;

  Operand *operands[] = {&layer.weight, &layer.vector, &layer.result};
  const auto all = [&](auto condition) {
    return std::all_of(operands, operands + 3, [&](Operand *o) { return !o->data || condition(*o); });
  };
  if (layer.inner == 1) {
    std::swap(layer.inner, layer.outer);
    for (Operand *o : operands)
      std::swap(o->inner_stride, o->outer_stride);
  } else if (all([&](const Operand &o) { return o.outer_stride == layer.inner * o.inner_stride; })) {
    layer.inner *= layer.outer;
    layer.outer = 1;
  }
  return layer;
}

inline std::string shape_text(const Tensor &t) {
  std::string text = "(";
  for (int64_t d = 0; d < t.dim(); d++)
    text += (d ? ", " : "") + std::to_string(t.sizes()[d]);
  return text + ")";
}

// The bytes that a tensor fills. Where its elements lie apart, those of its first element alone, so that what lies
// interleaved with another tensor is not taken for a part of it.
struct Extent {
  const char *begin, *end;
  const char *what; // null: only read
  size_t index;
};

inline Extent extent_of(const Tensor &t, const char *what, size_t index) {
  std::vector<std::pair<int64_t, int64_t>> axes; // stride, size
  for (int64_t d = 0; d < t.dim(); d++)
    if (t.sizes()[d] != 1)
      axes.emplace_back(t.stride(d), t.sizes()[d]);
  std::sort(axes.begin(), axes.end());
  int64_t last = 0; // the farthest element that the axes so far reach
  for (const auto &[stride, size] : axes) {
    STD_TORCH_CHECK(!what || stride > last, what, "[", index,
                    "]: its elements share memory (an expanded tensor?), so it cannot be written to; pass a copy, "
                    "such as .contiguous()");
    last += stride * (size - 1);
  }
  const int64_t elements = last + 1 == t.numel() ? t.numel() : 1;
  const char *begin = static_cast<const char *>(t.data_ptr());
  return {begin, begin + elements * int64_t(t.element_size()), what, index};
}

// What is written must not lie in memory that belongs to another tensor of the call.
inline void check_apart(const Tensors &written, const Tensors &weights, const char *what) {
  std::vector<Extent> extents;
  extents.reserve(written.size() + weights.size());
  for (size_t i = 0; i < written.size(); i++)
    if (written[i].numel() > 0)
      extents.push_back(extent_of(written[i], what, i));
  for (size_t i = 0; i < weights.size(); i++)
    if (weights[i].numel() > 0)
      extents.push_back(extent_of(weights[i], nullptr, i));
  std::sort(extents.begin(), extents.end(), [](const Extent &a, const Extent &b) { return a.begin < b.begin; });
  const Extent *farthest = nullptr, *farthest_written = nullptr;
  for (const Extent &here : extents) {
    const Extent *before = here.what ? farthest : farthest_written;
    if (before && here.begin < before->end) {
      const Extent &target = here.what ? here : *before, &other = here.what ? *before : here;
      STD_TORCH_CHECK(false, what, "[", target.index, "] shares memory with ", other.what ? other.what : "weights", "[",
                      other.index, "]; what is written needs memory of its own: pass a copy, such as .clone()");
    }
    if (!farthest || here.end > farthest->end)
      farthest = &here;
    if (here.what && (!farthest_written || here.end > farthest_written->end))
      farthest_written = &here;
  }
}

// One tensor a weight, of its shape and on its device.
inline void check_like(const Tensors &tensors, const Tensors &weights, const char *what) {
  STD_TORCH_CHECK(tensors.size() == weights.size(), what, ": expected ", weights.size(), ", one a weight, found ",
                  tensors.size());
  for (size_t i = 0; i < tensors.size(); i++) {
    const auto a = tensors[i].sizes(), b = weights[i].sizes();
    STD_TORCH_CHECK(a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin()), what, "[", i,
                    "]: expected the shape of weights[", i, "], ", shape_text(weights[i]), "; found ",
                    shape_text(tensors[i]));
    STD_TORCH_CHECK(tensors[i].device() == weights[i].device(), what, "[", i, "]: expected the device of weights[", i,
                    "]");
  }
}

inline void check_call(const Tensors &weights, const Tensor &coefficients) {
  STD_TORCH_CHECK(!weights.empty(), "weights: expected at least one tensor, found none");
  STD_TORCH_CHECK(coefficients.is_cpu() && coefficients.scalar_type() == ScalarType::Double &&
                      coefficients.is_contiguous() && coefficients.dim() == 1 &&
                      coefficients.numel() == int64_t(weights.size()),
                  "coefficients: expected a float64 CPU tensor of ", weights.size(), ", one a weight");
  for (size_t i = 1; i < weights.size(); i++)
    STD_TORCH_CHECK(weights[i].device() == weights[0].device(), "weights[", i,
                    "]: expected the device of weights[0]; one call works on one device");
}

inline ScalarType result_type(const Tensors &weights) {
  const bool wide = std::any_of(weights.begin(), weights.end(),
                                [](const Tensor &w) { return w.scalar_type() == ScalarType::Double; });
  return wide ? ScalarType::Double : ScalarType::Float;
}

inline Tensors empty_like(const Tensors &weights) {
  Tensors result;
  result.reserve(weights.size());
  for (const Tensor &w : weights)
    result.push_back(torch::stable::empty_like(w));
  return result;
}

} // namespace skreg
