// Operator schemas, and the Python module that tells what was built.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <torch/csrc/stable/library.h>

#include "cpu/level.h"

#define SKREG_OPTIONS "int normalize, int exponentiate, bool mean, int connectivity, float max_exponent"

// Coefficients are a float64 CPU tensor, so that a changed strength is no new constant to torch.compile.
STABLE_TORCH_LIBRARY(skreg, m) {
  m.def("value(Tensor[] weights, Tensor coefficients, " SKREG_OPTIONS ") -> (Tensor, Tensor)");
  m.def("value_and_gradients(Tensor[] weights, Tensor coefficients, " SKREG_OPTIONS ") -> (Tensor, Tensor, Tensor[])");
  m.def("gradients(Tensor[] weights, Tensor coefficients, Tensor? scale, " SKREG_OPTIONS ") -> Tensor[]");
  m.def("add_gradients_(Tensor[] weights, Tensor(a!)[] gradients, Tensor coefficients, Tensor? scale, " SKREG_OPTIONS
        ") -> Tensor");
  m.def("scale_(Tensor(a!)[] tensors, Tensor scale) -> ()");
  m.def("hessian_vector(Tensor[] weights, Tensor[] vectors, Tensor coefficients, Tensor? scale, " SKREG_OPTIONS
        ") -> (Tensor, Tensor[])");
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "skreg's native operators (torch.ops.skreg), and how they were built";
#if defined(__clang__)
  m.attr("compiler") = "clang " __clang_version__;
#else
  m.attr("compiler") = "g++ " __VERSION__;
#endif
  m.attr("built_with_torch") = SKREG_TORCH_VERSION;
  m.attr("abi_target") = "2.10";
  m.def("simd_level", &skreg::simd_level, "The SIMD level in use.");
  m.def("simd_levels", &skreg::simd_levels, "The levels that this processor runs, slowest first.");
  m.def("use_simd_level", &skreg::use_simd_level, pybind11::arg("name"), "Use another level (for tests).");
}
