// _native: what is not a tensor op. Build information and the SIMD level for `python -m distillkac.doctor`; the random
// words and the quantile table for known-answer tests; how most calls of an op begin.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <vector>

#define DISTILLKAC_ARCH portable
#include "build_info.h"
#include "../random/philox.h"
#include "../lanes/lanes.h"
#include "quick_call.h"
#include "simd_dispatch.h"

namespace py = pybind11;

static std::array<uint32_t, 4> philox_block(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  using namespace distillkac::portable;
  std::array<uint32_t, 4> words;
  const PhiloxKey keys = philox_key((uint64_t(key[1]) << 32) | key[0]);
  philox<Scalar>(counter[0], counter[1], counter[2], counter[3], keys, reinterpret_cast<uint32_t(*)[4]>(words.data()));
  return words;
}

static void force_level(const std::string& level) {
  if (distillkac::set_simd_level(level)) return;
  std::string known;
  for (const std::string& name : distillkac::simd_levels()) known += (known.empty() ? "" : ", ") + name;
  throw py::value_error("set_simd_level: level must be one of " + known +
                        " (what this build and processor have), got '" + level + "'");
}

PYBIND11_MODULE(_native, m) {
  m.doc() = "Build information, SIMD level, Philox words, quantile table and quick calls of distillkac's kernels.";
  if (!distillkac::add_quick_call(m.ptr())) throw py::error_already_set();
  m.def(
      "build_info",
      [] {
        const distillkac::BuildInfo info = distillkac::build_info();
        py::dict result;
        result["compiler"] = info.compiler;
        result["cuda"] = info.cuda;
        result["cuda_architectures"] = info.cuda_architectures;
        result["cuda_problem"] = info.cuda_problem;
        result["commit"] = info.commit;
        result["source_hash"] = info.source_hash;
        return result;
      },
      "Compiler, CUDA version and architectures ('' without CUDA), why CUDA kernels could not be built ('' otherwise), "
      "commit and hash of the sources of this build.");
  m.def("simd_levels", &distillkac::simd_levels, "SIMD levels this build and this processor have, narrowest first.");
  m.def("simd_level", &distillkac::simd_level, "The SIMD level in use.");
  m.def("set_simd_level", &force_level, py::arg("level"), "Use a lower SIMD level; all give the same bits.");
  m.def("philox", &philox_block, py::arg("counter"), py::arg("key"),
        "Philox4x32-10 of a counter of four words under a key of two.");
  m.def(
      "quantile_table",
      [] {
        const auto [fast, deep] = distillkac::exported_quantile_table();
        return py::make_tuple(py::bytes(reinterpret_cast<const char*>(fast.data()), fast.size() * sizeof(float)),
                              py::bytes(reinterpret_cast<const char*>(deep.data()), deep.size() * sizeof(float)));
      },
      "The telegraph quantile table as float32 bytes: fast bank [257][7][16], deep bank [257][32][7].");
}
