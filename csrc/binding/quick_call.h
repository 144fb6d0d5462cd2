// A call of an op that needs none of Python's checks, told from the rest and made: what distillkac/ops asks first.
#pragma once
#include <Python.h>

namespace distillkac {

// Adds the type QuickCall to _native. False where Python raised.
bool add_quick_call(PyObject* native);

}  // namespace distillkac
