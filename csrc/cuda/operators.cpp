// The operators on CUDA tensors, and the Python module that tells what was built. All of a call goes into one launch.
#include <pybind11/pybind11.h>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <atomic>
#include <optional>
#include <tuple>

#include "launches.h"

namespace skreg {
namespace {

// The current stream of the weights' device, which is the current device while this lives.
class Stream {
public:
  explicit Stream(int device) : guard_(device) {
    void *stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
    cudaStreamCaptureStatus status{};
    STD_CUDA_CHECK(cudaStreamIsCapturing(stream_, &status));
    capturing_ = status != cudaStreamCaptureStatusNone;
  }
  cudaStream_t get() const { return stream_; }

  // The first of `count` counters in a row that no other launch in flight uses. A ring: an eager launch would have to
  // be overtaken by kCounters / count others, on other streams, to meet one with the same counters. A captured launch
  // keeps its counters for all replays; a graph never runs at the same time as itself.
  uint32_t take_counters(uint32_t count) const {
    static std::atomic<uint32_t> next[2];
    std::atomic<uint32_t> &ring = next[capturing_];
    uint32_t first = ring.load(), taken;
    do
      taken = first % kCounters + count <= kCounters ? first % kCounters : 0;
    while (!ring.compare_exchange_weak(first, taken + count));
    return taken + (capturing_ ? kCounters : 0);
  }

private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
  bool capturing_ = false;
};

std::vector<Layer> make_layers(const Tensors &weights, const Tensors *vectors, const Tensors *results,
                               const Tensor &coefficients, const Options &options) {
  check_call(weights, coefficients);
  const double *c = static_cast<const double *>(coefficients.data_ptr());
  std::vector<Layer> layers;
  layers.reserve(weights.size());
  for (size_t i = 0; i < weights.size(); i++) {
    layers.push_back(make_layer(weights[i], vectors ? &(*vectors)[i] : nullptr, results ? &(*results)[i] : nullptr,
                                options, c[i], i));
    layers.back().coefficient = c[i]; // the kernel divides by the number of kernels
  }
  return layers;
}

Call make_call(const Options &options, const std::optional<Tensor> &scale, const Tensor &weight) {
  Call call{};
  call.options = options;
  if (scale) {
    STD_TORCH_CHECK(scale->device() == weight.device() && scale->numel() == 1,
                    "scale: expected one number on the device of the tensors");
    STD_TORCH_CHECK(scale->scalar_type() == ScalarType::Double || scale->scalar_type() == ScalarType::Float,
                    "scale: expected dtype float32 or float64, found ",
                    torch::headeronly::toString(scale->scalar_type()));
    call.scale = scale->data_ptr();
    call.scale_wide = scale->scalar_type() == ScalarType::Double;
  }
  return call;
}

struct Values {
  Tensor total, each;
};
Values make_values(const Tensors &weights) {
  const ScalarType type = result_type(weights);
  return {torch::stable::new_empty(weights[0], {}, type),
          torch::stable::new_empty(weights[0], {int64_t(weights.size())}, type)};
}

template <Work work>
void launch_all(const std::vector<Layer> &layers, const std::vector<Geometry<kOperands<work>>> &geometries,
                const Call &call, const Stream &stream) {
  for_each_launch<kOperands<work>>(layers, geometries, call, [&](auto &filling) {
    auto &a = filling.arguments;
    a.counters = call.partials ? stream.take_counters(counters_of(a.layers, call.factors)) : 0;
    STD_CUDA_CHECK(launch_penalty<work>(a, filling.shared_bytes, stream.get()));
  });
}

template <int Operands> std::vector<Geometry<Operands>> make_geometries(const std::vector<Layer> &layers) {
  std::vector<Geometry<Operands>> geometries;
  geometries.reserve(layers.size());
  for (const Layer &layer : layers)
    geometries.push_back(make_geometry<Operands>(layer));
  return geometries;
}

// Runs `work` on all layers. `values`: where values are wanted; for the Hessian its total is the slope.
template <Work work> void run(const Tensors &weights, std::vector<Layer> layers, Call call, const Values *values) {
  const Stream stream(weights[0].get_device());
  const bool two_rounds = call.options.exponentiate == kLayer && work != Work::sums;
  const auto geometries = make_geometries<kOperands<work>>(layers);
  std::optional<Tensor> scratch;
  if (values || two_rounds) {
    int64_t chunks = 0;
    for (const auto &g : geometries)
      chunks += chunks_of(g);
    const int64_t n = int64_t(layers.size());
    scratch = torch::stable::new_empty(weights[0], {n * (two_rounds ? 3 : 1) + chunks * 2}, ScalarType::Double);
    double *memory = static_cast<double *>(scratch->data_ptr());
    call.partials = reinterpret_cast<Sums *>(memory);
    call.weighted = memory + 2 * chunks;
    call.factors = two_rounds ? reinterpret_cast<LayerFactors *>(call.weighted + n) : nullptr;
  }
  if (values) {
    call.wide = result_type(weights) == ScalarType::Double;
    call.values = values->each.data_ptr();
    call.total = values->total.data_ptr();
  }
  launch_all<work>(layers, geometries, call, stream);
}

std::tuple<Tensor, Tensor> value(Tensors weights, Tensor coefficients, int64_t normalize, int64_t exponentiate,
                                 bool mean, int64_t connectivity, double max_exponent) {
  const Options options = make_options(normalize, exponentiate, mean, connectivity, max_exponent);
  auto layers = make_layers(weights, nullptr, nullptr, coefficients, options);
  const Values values = make_values(weights);
  run<Work::sums>(weights, std::move(layers), make_call(options, {}, weights[0]), &values);
  return {values.total, values.each};
}

std::tuple<Tensor, Tensor, Tensors> value_and_gradients(Tensors weights, Tensor coefficients, int64_t normalize,
                                                        int64_t exponentiate, bool mean, int64_t connectivity,
                                                        double max_exponent) {
  const Options options = make_options(normalize, exponentiate, mean, connectivity, max_exponent);
  Tensors gradients = empty_like(weights);
  auto layers = make_layers(weights, nullptr, &gradients, coefficients, options);
  const Values values = make_values(weights);
  run<Work::gradients>(weights, std::move(layers), make_call(options, {}, weights[0]), &values);
  return {values.total, values.each, gradients};
}

Tensors gradients(Tensors weights, Tensor coefficients, std::optional<Tensor> scale, int64_t normalize,
                  int64_t exponentiate, bool mean, int64_t connectivity, double max_exponent) {
  const Options options = make_options(normalize, exponentiate, mean, connectivity, max_exponent);
  Tensors results = empty_like(weights);
  auto layers = make_layers(weights, nullptr, &results, coefficients, options);
  run<Work::gradients>(weights, std::move(layers), make_call(options, scale, weights[0]), nullptr);
  return results;
}

Tensor add_gradients_(Tensors weights, Tensors gradients, Tensor coefficients, std::optional<Tensor> scale,
                      int64_t normalize, int64_t exponentiate, bool mean, int64_t connectivity, double max_exponent) {
  const Options options = make_options(normalize, exponentiate, mean, connectivity, max_exponent);
  check_like(gradients, weights, "gradients");
  check_apart(gradients, weights, "gradients");
  auto layers = make_layers(weights, nullptr, &gradients, coefficients, options);
  Call call = make_call(options, scale, weights[0]);
  call.add = true;
  const Values values = make_values(weights);
  run<Work::gradients>(weights, std::move(layers), call, &values);
  return values.each;
}

// Vectors in the dtypes of the weights, as autograd hands them; others are converted first.
Tensors like_weights(const Tensors &vectors, const Tensors &weights) {
  check_like(vectors, weights, "vectors");
  Tensors result = vectors;
  for (size_t i = 0; i < vectors.size(); i++)
    if (vectors[i].scalar_type() != weights[i].scalar_type()) {
      result[i] = torch::stable::empty_like(weights[i]);
      torch::stable::copy_(result[i], vectors[i]);
    }
  return result;
}

std::tuple<Tensor, Tensors> hessian_vector(Tensors weights, Tensors vectors, Tensor coefficients,
                                           std::optional<Tensor> scale, int64_t normalize, int64_t exponentiate,
                                           bool mean, int64_t connectivity, double max_exponent) {
  const Options options = make_options(normalize, exponentiate, mean, connectivity, max_exponent);
  const Tensors directions = like_weights(vectors, weights);
  Tensors products = empty_like(weights);
  auto layers = make_layers(weights, &directions, &products, coefficients, options);
  const Values values = make_values(weights);
  run<Work::hessian>(weights, std::move(layers), make_call(options, scale, weights[0]), &values);
  return {values.total, products};
}

// One dimension where the elements fill a piece of memory in any order, otherwise as a weight.
Layer make_scaled_layer(const Tensor &tensor, size_t index) {
  std::vector<std::pair<int64_t, int64_t>> axes; // stride, size
  for (int64_t d = 0; d < tensor.dim(); d++)
    if (tensor.sizes()[d] != 1)
      axes.emplace_back(tensor.stride(d), tensor.sizes()[d]);
  std::sort(axes.begin(), axes.end());
  int64_t dense = 1;
  for (const auto &[stride, size] : axes)
    dense = stride == dense ? dense * size : -1;
  const Options options{kSubtract, kNoExponential, false, 1, 0};
  if (tensor.numel() > 0 && dense != tensor.numel())
    return make_layer(tensor, nullptr, nullptr, options, 1, index);
  Layer layer;
  layer.outer = 1;
  layer.inner = tensor.numel();
  layer.shape = {1, 1, 1, 1, 1};
  layer.weight = {
      static_cast<char *>(tensor.data_ptr()), dtype_of(tensor, "tensors", index), layer.inner, 1, {0, 0, 1}};
  return layer;
}

void scale_(Tensors tensors, Tensor scale) {
  if (tensors.empty())
    return;
  const Call call = make_call({}, scale, tensors[0]);
  std::vector<Layer> layers;
  for (size_t i = 0; i < tensors.size(); i++) {
    STD_TORCH_CHECK(tensors[i].device() == scale.device(), "tensors[", i, "]: expected the device of scale");
    layers.push_back(make_scaled_layer(tensors[i], i));
  }
  const Stream stream(tensors[0].get_device());
  for_each_launch<1>(layers, make_geometries<1>(layers), call,
                     [&](const auto &filling) { STD_CUDA_CHECK(launch_scale(filling.arguments, stream.get())); });
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(skreg, CUDA, m) {
  m.impl("value", TORCH_BOX(&value));
  m.impl("value_and_gradients", TORCH_BOX(&value_and_gradients));
  m.impl("gradients", TORCH_BOX(&gradients));
  m.impl("add_gradients_", TORCH_BOX(&add_gradients_));
  m.impl("scale_", TORCH_BOX(&scale_));
  m.impl("hessian_vector", TORCH_BOX(&hessian_vector));
}

} // namespace skreg

PYBIND11_MODULE(_cuda, m) {
  using namespace skreg;
  m.doc() = "skreg's native operators for CUDA tensors, and how they were built";
  m.attr("cuda_version") = std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  m.attr("architectures") = SKREG_ARCHITECTURES;
  m.attr("built_with_torch") = SKREG_TORCH_VERSION;
  // Of weights that share one shape and layout; every further one takes the place of a few records.
  m.attr("records_per_launch") = (Arguments<2>::capacity - int(sizeof(Geometry<2>))) / int(sizeof(Record<2>));
}
