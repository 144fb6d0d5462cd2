// A call of an op that needs none of Python's checks, told from the rest and made: what distillkac/ops asks first.
#pragma once
#include <pybind11/pybind11.h>

namespace distillkac {

// Adds the type QuickCall to _native.
void add_quick_call(pybind11::module_& native);

}  // namespace distillkac
