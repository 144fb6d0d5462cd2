// Python's own C interface, because a checked call through pybind11 takes as long as a small op. Of torch only Python
// objects are used: _native knows nothing of its C++.
#include "quick_call.h"

#include <structmember.h>

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <utility>

namespace distillkac {
namespace {

constexpr Py_ssize_t kMost = 24;  // arguments of an op with those of out=

// A reference that is given back; null where Python raised.
class Owned {
 public:
  explicit Owned(PyObject* object = nullptr) : object_(object) {}
  Owned(Owned&& other) : object_(other.release()) {}
  Owned& operator=(Owned&& other) {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Owned() { Py_XDECREF(object_); }
  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  PyObject* object_;
};

// What Python has raised, if anything, is put aside, and raised again at the end.
class Aside {
 public:
#if PY_VERSION_HEX >= 0x030c0000
  Aside() : raised_(PyErr_GetRaisedException()) {}
  ~Aside() { PyErr_SetRaisedException(raised_); }

 private:
  PyObject* raised_;
#else
  Aside() { PyErr_Fetch(&type_, &value_, &trace_); }
  ~Aside() { PyErr_Restore(type_, value_, trace_); }

 private:
  PyObject *type_, *value_, *trace_;
#endif
};

// What of torch decides and what is called, looked up once.
struct Torch {
  PyObject *tensor, *any_requires_grad, *transforms, *below_autograd, *increment_version, *forward_mode, *level;
  PyObject *enter, *exit;

  // Null where this torch has not all of it: then every call is left to the checks, which need none.
  static const Torch* find() {
    static const Torch* const found = [] {
      Torch* const torch = new Torch(look_up());
      PyErr_Clear();
      for (PyObject* part : {torch->tensor, torch->any_requires_grad, torch->transforms, torch->below_autograd,
                             torch->increment_version, torch->forward_mode, torch->level, torch->enter, torch->exit})
        if (!part) return static_cast<Torch*>(nullptr);
      return torch;
    }();
    return found;
  }
  static const Torch& get() { return *find(); }

 private:
  static Torch look_up() {
    // An attribute of an attribute of a module, as long as the process lives; null where one is missing.
    const auto kept = [](const char* module, std::initializer_list<const char*> names) {
      Owned object(PyImport_ImportModule(module));
      for (const char* name : names) {
        if (!object) break;
        object = Owned(PyObject_GetAttrString(object.get(), name));
      }
      if (!object) PyErr_Clear();
      return object.release();
    };
    return Torch{
        .tensor = kept("torch", {"Tensor"}),
        .any_requires_grad = kept("torch._C", {"_any_requires_grad"}),
        .transforms = kept("torch._C", {"_functorch", "peek_interpreter_stack"}),
        .below_autograd = kept("torch._C", {"_AutoDispatchBelowAutograd"}),
        .increment_version = kept("torch._C", {"_increment_version"}),
        .forward_mode = kept("torch.autograd.forward_ad", {"__dict__"}),
        .level = PyUnicode_InternFromString("_current_level"),
        .enter = kept("torch._C", {"_AutoDispatchBelowAutograd", "__enter__"}),
        .exit = kept("torch._C", {"_AutoDispatchBelowAutograd", "__exit__"}),
    };
  }
};

struct QuickCall {
  PyObject_HEAD vectorcallfunc call;
  PyObject *fresh, *filling;  // the op that returns new tensors; the one that fills those of out=, or None
  PyObject* kinds;            // ((type, ...), ...): of what follows the tensors
  Py_ssize_t tensors;         // the first so many arguments: each a plain tensor or None
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
  PyObject* const level = PyDict_GetItem(torch.forward_mode, torch.level);  // borrowed
  if (!level || PyLong_AsLong(level) >= 0) return false;
  if (Owned(PyObject_CallNoArgs(torch.transforms)).get() != Py_None) return false;
  return Owned(PyObject_Vectorcall(torch.any_requires_grad, tensors, count, nullptr)).get() == Py_False;
}

// The op without autograd's rule: there is nothing to record. Null where Python raised.
Owned below_autograd(PyObject* op, PyObject* const* args, Py_ssize_t count) {
  const Torch& torch = Torch::get();
  const Owned guard(PyObject_CallNoArgs(torch.below_autograd));  // each serves once
  if (!guard || !Owned(PyObject_CallOneArg(torch.enter, guard.get()))) return Owned();
  Owned result(PyObject_Vectorcall(op, args, count, nullptr));
  const Aside raised;  // by the op
  PyObject* const leave[] = {guard.get(), Py_None, Py_None, Py_None};
  if (!Owned(PyObject_Vectorcall(torch.exit, leave, 4, nullptr))) return Owned();
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
  if (!result) return ask();  // nothing is written yet
  if (outs == 0) return result.release();
  // A backward pass that needs the old values fails loudly.
  const Owned written(many ? Py_NewRef(out) : PyTuple_Pack(1, out));
  if (!Owned(PyObject_CallOneArg(Torch::get().increment_version, written.get()))) return nullptr;
  return result.get() == Py_None ? Py_NewRef(out) : result.release();
}

PyObject* make(PyTypeObject* type, PyObject* args, PyObject*) {
  PyObject *fresh, *filling, *kinds;
  Py_ssize_t tensors;
  if (!PyArg_ParseTuple(args, "OOnO!:QuickCall", &fresh, &filling, &tensors, &PyTuple_Type, &kinds)) return nullptr;
  QuickCall* self = reinterpret_cast<QuickCall*>(type->tp_alloc(type, 0));
  if (!self) return nullptr;
  self->call = call;
  self->fresh = Py_NewRef(fresh);
  self->filling = Py_NewRef(filling);
  self->kinds = Py_NewRef(kinds);
  self->tensors = tensors;
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

bool add_quick_call(PyObject* native) {
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
  const Owned type(PyType_FromSpec(&spec));
  return type && PyObject_SetAttrString(native, "QuickCall", type.get()) == 0;
}

}  // namespace distillkac
