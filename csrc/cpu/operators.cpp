// The operators on CPU tensors: layers are cut into chunks, threads share the chunks, sums meet in a fixed order.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <memory>
#include <new>
#include <tuple>

#include "../arguments.h"
#include "level.h"

namespace skreg {
namespace {

constexpr int64_t kChunkElements = 16384;        // a chunk depends on the layer alone, never on the threads
constexpr int64_t kStreamBytes = 24 << 20;       // results above this size would push everything out of the caches
constexpr int64_t kLayerGroupElements = 1 << 20; // layers that are read twice stay in the cache in between

int64_t chunk_kernels(const Layer &layer) {
  const int64_t fit = kChunkElements / std::max<int64_t>(layer.shape.size, 1);
  return fit >= 64 ? fit / 64 * 64 : 16;
}

struct Scratch {
  explicit Scratch(int64_t bytes) : memory(::operator new(size_t(bytes), std::align_val_t(64))) {}
  ~Scratch() { ::operator delete(memory, std::align_val_t(64)); }
  Scratch(const Scratch &) = delete;
  Scratch &operator=(const Scratch &) = delete;
  void *memory;
};

struct Exponent {
  double value, slope, curvature;
};
Exponent exponential_of(double score, const Options &options) {
  const bool above = score > options.max_exponent;
  const double e = std::exp(above ? options.max_exponent : score);
  return {above ? e * (1 + (score - options.max_exponent)) : e, e, above ? 0 : e};
}

// Runs one pass over `layers` and returns the sums of each, added chunk by chunk in order.
std::vector<Sums> run_pass(const Layer *layers, size_t count, const Pass &pass) {
  std::vector<int64_t> first(count + 1, 0);
  int64_t largest = 1;
  for (size_t i = 0; i < count; i++) {
    const bool empty = layers[i].shape.size == 0;
    const int64_t step = chunk_kernels(layers[i]);
    first[i + 1] = first[i] + (empty ? 0 : (layers[i].kernels() + step - 1) / step);
    largest = std::max(largest, layers[i].shape.size);
  }
  std::vector<Sums> chunks(static_cast<size_t>(first[count]));
  const ChunkFunction run = chunk_function();
  torch::stable::parallel_for(0, first[count], 2, [&](int64_t begin, int64_t end) {
    const Scratch scratch(scratch_bytes(largest));
    size_t i = size_t(std::upper_bound(first.begin(), first.end(), begin) - first.begin()) - 1;
    for (int64_t c = begin; c < end; c++) {
      while (c >= first[i + 1])
        i++;
      const int64_t step = chunk_kernels(layers[i]), start = (c - first[i]) * step;
      chunks[size_t(c)] = run(layers[i], pass, start, std::min(start + step, layers[i].kernels()), scratch.memory);
    }
  });
  std::vector<Sums> totals(count);
  for (size_t i = 0; i < count; i++) {
    for (int64_t c = first[i]; c < first[i + 1]; c++) {
      totals[i].score += chunks[size_t(c)].score;
      totals[i].slope += chunks[size_t(c)].slope;
    }
    // Kernels without elements have S = 0.
    if (layers[i].shape.size == 0 && pass.options.exponentiate == kKernel)
      totals[i].score = double(layers[i].kernels()) * exponential_of(0, pass.options).value;
  }
  return totals;
}

Exponent layer_exponential(double score, const Options &options) {
  if (options.exponentiate != kLayer)
    return {score, 1, 0};
  return exponential_of(score, options);
}

// R(W) before the coefficient, and its derivative by the sum of S.
Exponent finish(const Layer &layer, double score, const Options &options) {
  return layer_exponential(options.mean && layer.kernels() > 0 ? score / double(layer.kernels()) : score, options);
}

// All layers: value, and what `work` writes. Layers that need their sum first are read twice, group by group.
struct Totals {
  std::vector<double> values; // R(W)
  std::vector<double> slopes; // <dR/dW, v>
};
Totals run_layers(std::vector<Layer> &layers, Pass pass) {
  Totals totals;
  const bool twice = pass.options.exponentiate == kLayer && pass.work != Work::sums;
  for (size_t begin = 0, end = 0; begin < layers.size(); begin = end) {
    int64_t elements = 0;
    do {
      elements += layers[end].kernels() * layers[end].shape.size;
      end++;
    } while (end < layers.size() && (!twice || elements < kLayerGroupElements));
    Layer *group = layers.data() + begin;
    Pass first = pass;
    if (twice && pass.work == Work::gradients)
      first.work = Work::sums;
    const auto sums = run_pass(group, end - begin, first);
    for (size_t i = 0; i < sums.size(); i++) {
      const Exponent r = finish(group[i], sums[i].score, pass.options);
      const double share = pass.options.mean && group[i].kernels() > 0 ? 1 / double(group[i].kernels()) : 1;
      totals.values.push_back(r.value);
      totals.slopes.push_back(r.slope * share * sums[i].slope);
      group[i].curvature = group[i].coefficient * r.curvature * share * sums[i].slope;
      group[i].coefficient *= r.slope;
    }
    if (twice)
      run_pass(group, end - begin, pass);
  }
  return totals;
}

double scalar(const std::optional<Tensor> &scale) {
  if (!scale)
    return 1;
  STD_TORCH_CHECK(scale->is_cpu() && scale->numel() == 1, "scale: expected one number on the CPU");
  const void *p = scale->data_ptr();
  switch (scale->scalar_type()) {
  case ScalarType::Float:
    return *static_cast<const float *>(p);
  case ScalarType::Double:
    return *static_cast<const double *>(p);
  default:
    STD_TORCH_CHECK(false, "scale: expected dtype float32 or float64, found ",
                    torch::headeronly::toString(scale->scalar_type()));
  }
}

std::vector<Layer> make_layers(const Tensors &weights, const Tensors *vectors, const Tensors *results,
                               const Tensor &coefficients, const Options &options, double scale) {
  check_call(weights, coefficients);
  const double *c = static_cast<const double *>(coefficients.data_ptr());
  std::vector<Layer> layers;
  layers.reserve(weights.size());
  for (size_t i = 0; i < weights.size(); i++)
    layers.push_back(make_layer(weights[i], vectors ? &(*vectors)[i] : nullptr, results ? &(*results)[i] : nullptr,
                                options, c[i] * scale, i));
  return layers;
}

Pass make_pass(Work work, const Options &options, const Tensors &results, bool add) {
  int64_t bytes = 0;
  for (const Tensor &t : results)
    bytes += t.numel() * 4;
  return {work, options, add, bytes > kStreamBytes};
}

void write(Tensor &to, int64_t at, double value) {
  if (to.scalar_type() == ScalarType::Double)
    static_cast<double *>(to.data_ptr())[at] = value;
  else
    static_cast<float *>(to.data_ptr())[at] = float(value);
}

std::tuple<Tensor, Tensor> make_values(const Tensors &weights, const Tensor &coefficients,
                                       const std::vector<double> &values) {
  const ScalarType type = result_type(weights);
  Tensor total = torch::stable::new_empty(weights[0], {}, type);
  Tensor each = torch::stable::new_empty(weights[0], {int64_t(values.size())}, type);
  const double *c = static_cast<const double *>(coefficients.data_ptr());
  double sum = 0;
  for (size_t i = 0; i < values.size(); i++) {
    write(each, int64_t(i), values[i]);
    sum += c[i] * values[i];
  }
  write(total, 0, sum);
  return {total, each};
}

std::tuple<Tensor, Tensor> value(Tensors weights, Tensor coefficients, int64_t normalize, int64_t exponentiate,
                                 bool mean, int64_t connectivity, double max_exponent) {
  const Options options = make_options(normalize, exponentiate, mean, connectivity, max_exponent);
  auto layers = make_layers(weights, nullptr, nullptr, coefficients, options, 1);
  const Totals totals = run_layers(layers, {Work::sums, options, false, false});
  return make_values(weights, coefficients, totals.values);
}

std::tuple<Tensor, Tensor, Tensors> value_and_gradients(Tensors weights, Tensor coefficients, int64_t normalize,
                                                        int64_t exponentiate, bool mean, int64_t connectivity,
                                                        double max_exponent) {
  const Options options = make_options(normalize, exponentiate, mean, connectivity, max_exponent);
  Tensors gradients = empty_like(weights);
  auto layers = make_layers(weights, nullptr, &gradients, coefficients, options, 1);
  const Totals totals = run_layers(layers, make_pass(Work::gradients, options, gradients, false));
  const auto [total, each] = make_values(weights, coefficients, totals.values);
  return {total, each, gradients};
}

Tensors gradients(Tensors weights, Tensor coefficients, std::optional<Tensor> scale, int64_t normalize,
                  int64_t exponentiate, bool mean, int64_t connectivity, double max_exponent) {
  const Options options = make_options(normalize, exponentiate, mean, connectivity, max_exponent);
  Tensors results = empty_like(weights);
  auto layers = make_layers(weights, nullptr, &results, coefficients, options, scalar(scale));
  run_layers(layers, make_pass(Work::gradients, options, results, false));
  return results;
}

Tensor add_gradients_(Tensors weights, Tensors gradients, Tensor coefficients, std::optional<Tensor> scale,
                      int64_t normalize, int64_t exponentiate, bool mean, int64_t connectivity, double max_exponent) {
  const Options options = make_options(normalize, exponentiate, mean, connectivity, max_exponent);
  check_like(gradients, weights, "gradients");
  check_apart(gradients, weights, "gradients");
  auto layers = make_layers(weights, nullptr, &gradients, coefficients, options, scalar(scale));
  const Totals totals = run_layers(layers, make_pass(Work::gradients, options, gradients, true));
  return std::get<1>(make_values(weights, coefficients, totals.values));
}

std::tuple<Tensor, Tensors> hessian_vector(Tensors weights, Tensors vectors, Tensor coefficients,
                                           std::optional<Tensor> scale, int64_t normalize, int64_t exponentiate,
                                           bool mean, int64_t connectivity, double max_exponent) {
  const Options options = make_options(normalize, exponentiate, mean, connectivity, max_exponent);
  check_like(vectors, weights, "vectors");
  Tensors products = empty_like(weights);
  auto layers = make_layers(weights, &vectors, &products, coefficients, options, scalar(scale));
  const Totals totals = run_layers(layers, make_pass(Work::hessian, options, products, false));
  Tensor slope = torch::stable::new_empty(weights[0], {}, result_type(weights));
  const double *c = static_cast<const double *>(coefficients.data_ptr());
  double sum = 0;
  for (size_t i = 0; i < layers.size(); i++)
    sum += c[i] * totals.slopes[i];
  write(slope, 0, sum);
  return {slope, products};
}

void scale_(Tensors tensors, Tensor scale) {
  const double factor = scalar(scale);
  if (factor == 1)
    return;
  for (const Tensor &t : tensors) {
    StableIValue stack[] = {torch::stable::detail::from(t), torch::stable::detail::from(scale)};
    STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mul_", "Tensor", stack, TORCH_ABI_VERSION));
    torch::stable::detail::to<Tensor>(stack[0]); // owns what the call returned
  }
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(skreg, CPU, m) {
  m.impl("value", TORCH_BOX(&value));
  m.impl("value_and_gradients", TORCH_BOX(&value_and_gradients));
  m.impl("gradients", TORCH_BOX(&gradients));
  m.impl("add_gradients_", TORCH_BOX(&add_gradients_));
  m.impl("scale_", TORCH_BOX(&scale_));
  m.impl("hessian_vector", TORCH_BOX(&hessian_vector));
}

} // namespace skreg
