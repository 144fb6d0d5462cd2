// Python's own C interface, because a checked call through pybind11 takes as long as a small op. Of torch only Python
// objects are used: _native knows nothing of its C++.
#include "quick_call.h"

#include <structmember.h>

#include <algorithm>
#include <cstddef>

namespace py = pybind11;

namespace distillkac {
namespace {

constexpr Py_ssize_t kMost = 24;  // arguments of an op with those of out=

// What of torch decides and what is called, looked up once.
struct Torch {
  PyObject *tensor, *any_requires_grad, *transforms, *below_autograd, *increment_version, *forward_mode, *level;
  PyObject *enter, *exit;

  // Null where this torch has not all of it: then every call is left to the checks, which need none.
  static const Torch* find() {
    static const Torch* const found = []() -> const Torch* {
      try {
        return new Torch(look_up());
      } catch (const py::error_already_set&) {
        return nullptr;
      }
    }();
    return found;
  }
  static const Torch& get() { return *find(); }

 private:
  static Torch look_up() {
    const py::module_ c = py::module_::import("torch._C"), forward = py::module_::import("torch.autograd.forward_ad");
    const auto keep = [](py::object object) { return object.release().ptr(); };
    return Torch{
        .tensor = keep(py::module_::import("torch").attr("Tensor")),
        .any_requires_grad = keep(c.attr("_any_requires_grad")),
        .transforms = keep(c.attr("_functorch").attr("peek_interpreter_stack")),
        .below_autograd = keep(c.attr("_AutoDispatchBelowAutograd")),
        .increment_version = keep(c.attr("_increment_version")),
        .forward_mode = keep(forward.attr("__dict__")),
        .level = keep(py::str("_current_level")),
        .enter = keep(c.attr("_AutoDispatchBelowAutograd").attr("__enter__")),
        .exit = keep(c.attr("_AutoDispatchBelowAutograd").attr("__exit__")),
    };
  }
};

using Owned = py::object;  // a reference that is given back
Owned owned(PyObject* object) { return py::reinterpret_steal<Owned>(object); }

struct QuickCall {
  PyObject_HEAD vectorcallfunc call;
  PyObject *fresh, *filling;  // the op that returns new tensors; the one that fills those of out=, or None
  PyObject* kinds;            // ((type, ...), ...): of what follows the tensors
  Py_ssize_t tensors;         // the first so many arguments: each a plain tensor or None
  int late;                   // whether the op may refuse what it has read after it has written
};

bool is_plain(PyObject* object) {
  return object == Py_None || reinterpret_cast<PyObject*>(Py_TYPE(object)) == Torch::get().tensor;
}

bool is_of_kind(PyObject* kind, PyObject* const* args, Py_ssize_t count) {
  if (PyTuple_GET_SIZE(kind) != count) return false;
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(args[i])) != PyTuple_GET_ITEM(kind, i)) return false;
    if (!PyTuple_CheckExact(args[i])) continue;
    for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(args[i]); ++n)
      if (!PyLong_CheckExact(PyTuple_GET_ITEM(args[i], n))) return false;
  }
  return true;
}

// No gradient is wanted of any of these, nothing transforms the program, and no tangent can be about.
bool is_bare(PyObject* const* tensors, Py_ssize_t count) {
  const Torch& torch = Torch::get();
  const Owned level = py::reinterpret_borrow<Owned>(PyDict_GetItem(torch.forward_mode, torch.level));
  if (!level || PyLong_AsLong(level.ptr()) >= 0) return false;
  const Owned transforms = owned(PyObject_CallNoArgs(torch.transforms));
  if (transforms.ptr() != Py_None) return false;
  return owned(PyObject_Vectorcall(torch.any_requires_grad, tensors, count, nullptr)).ptr() == Py_False;
}

// The op without autograd's rule: there is nothing to record. Null where Python raised.
Owned below_autograd(PyObject* op, PyObject* const* args, Py_ssize_t count) {
  const Torch& torch = Torch::get();
  const Owned guard = owned(PyObject_CallNoArgs(torch.below_autograd));  // each serves once
  if (!guard || !owned(PyObject_CallOneArg(torch.enter, guard.ptr()))) return Owned();
  Owned result = owned(PyObject_Vectorcall(op, args, count, nullptr));
  const py::error_scope raised;  // by the op, if anything was
  PyObject* const leave[] = {guard.ptr(), Py_None, Py_None, Py_None};
  if (!owned(PyObject_Vectorcall(torch.exit, leave, 4, nullptr))) return Owned();
  return result;
}

PyObject* ask() {
  if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception)) return nullptr;  // an interrupt stays one
  PyErr_Clear();
  return Py_NewRef(Py_NotImplemented);
}

PyObject* call(PyObject* self, PyObject* const* args, size_t flags, PyObject* keywords) {
  const QuickCall& quick = *reinterpret_cast<QuickCall*>(self);
  const Py_ssize_t rest = PyVectorcall_NARGS(flags) - 1 - quick.tensors;
  PyObject* out = rest < 0 ? nullptr : args[0];
  const bool many = out && PyTuple_CheckExact(out);
  const Py_ssize_t outs = !out || out == Py_None ? 0 : many ? PyTuple_GET_SIZE(out) : 1;
  if (out && outs > kMost - quick.tensors - rest) return ask();
  if (!out || keywords || quick.tensors + rest > kMost) {
    PyErr_SetString(PyExc_TypeError, "QuickCall: wants out, its tensors and the rest, by position");
    return nullptr;
  }
  if (!Torch::find()) return ask();
  PyObject* all[kMost];  // tensors, those of out, the rest
  PyObject** const after = std::copy_n(args + 1, quick.tensors, all);
  for (Py_ssize_t i = 0; i < outs; ++i) after[i] = many ? PyTuple_GET_ITEM(out, i) : out;
  const Py_ssize_t read = quick.tensors + outs;
  std::copy_n(args + 1 + quick.tensors, rest, all + read);
  bool plain = (outs == 0) || quick.filling != Py_None, known = false;
  for (Py_ssize_t i = 0; i < read; ++i) plain = plain && is_plain(all[i]);
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(quick.kinds); ++i)
    known = known || is_of_kind(PyTuple_GET_ITEM(quick.kinds, i), all + read, rest);
  if (!plain || !known || (many && outs < 2) || !is_bare(all, read)) return ask();
  Owned result = below_autograd(outs ? quick.filling : quick.fresh, all, read + rest);
  // What is filled may be what was read: asked again, the op would find other values.
  if (!result) return outs && quick.late && PyErr_ExceptionMatches(PyExc_ValueError) ? nullptr : ask();
  if (outs == 0) return result.release().ptr();
  // A backward pass that needs the old values fails loudly.
  const Owned written = many ? py::reinterpret_borrow<Owned>(out) : owned(PyTuple_Pack(1, out));
  if (!owned(PyObject_CallOneArg(Torch::get().increment_version, written.ptr()))) return nullptr;
  return result.is_none() ? Py_NewRef(out) : result.release().ptr();
}

PyObject* make(PyTypeObject* type, PyObject* args, PyObject*) {
  PyObject *fresh, *filling, *kinds;
  Py_ssize_t tensors;
  int late = 0;
  if (!PyArg_ParseTuple(args, "OOnO!|p:QuickCall", &fresh, &filling, &tensors, &PyTuple_Type, &kinds, &late))
    return nullptr;
  QuickCall* self = reinterpret_cast<QuickCall*>(type->tp_alloc(type, 0));
  if (!self) return nullptr;
  self->call = call;
  self->fresh = Py_NewRef(fresh);
  self->filling = Py_NewRef(filling);
  self->kinds = Py_NewRef(kinds);
  self->tensors = tensors;
  self->late = late;
  return reinterpret_cast<PyObject*>(self);
}

void destroy(PyObject* self) {
  QuickCall* quick = reinterpret_cast<QuickCall*>(self);
  for (PyObject* part : {quick->fresh, quick->filling, quick->kinds}) Py_DECREF(part);
  PyTypeObject* type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(type);  // an instance holds its type
}

}  // namespace

void add_quick_call(py::module_& native) {
  static PyMemberDef members[] = {{"__vectorcalloffset__", T_PYSSIZET, offsetof(QuickCall, call), READONLY, nullptr},
                                  {nullptr, 0, 0, 0, nullptr}};
  static const char* doc =
      "QuickCall(op, op_out or None, number of tensors, kinds)(out, *tensors, *rest): the op's answer, or "
      "NotImplemented "
      "where the checks must be asked first. kinds: tuples of the types that the rest may have.";
  PyType_Slot slots[] = {
      {Py_tp_new, reinterpret_cast<void*>(make)},
      {Py_tp_dealloc, reinterpret_cast<void*>(destroy)},
      {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
      {Py_tp_members, members},
      {Py_tp_doc, const_cast<char*>(doc)},
      {0, nullptr},
  };
  PyType_Spec spec = {"distillkac._native.QuickCall", sizeof(QuickCall), 0,
                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL, slots};
  native.attr("QuickCall") = owned(PyType_FromSpec(&spec));
}

}  // namespace distillkac
