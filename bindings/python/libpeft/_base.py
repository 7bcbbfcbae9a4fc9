"""What all handle classes share: life, locking, checking, arrays."""

import ctypes
import weakref

import numpy

from ._errors import StateError, error_for
from ._lib import lib


class Handle:
    """Owner of a C handle. `close()` releases it; so do `with` and garbage collection, in any order."""

    _destroy = None  # name of the C function

    def _own(self, pointer, context, *parents):
        self._pointer = pointer
        self._context = context  # for errors and the lock; also keeps it alive
        self._parents = parents  # kept alive: what the C object refers to
        self._finalizer = weakref.finalize(self, getattr(lib, self._destroy), pointer)

    @property
    def handle(self):
        if self._pointer is None:
            raise StateError(f"{type(self).__name__} is closed")
        return self._pointer

    def close(self):
        """Releases the C object; a second call does nothing."""
        if getattr(self, "_pointer", None) is not None:
            with self._context.lock:
                self._pointer = None
                self._finalizer()
        self._parents = ()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def check(context, status):
    """Raises for negative statuses, returns the others."""
    if status < 0:
        message = lib.peft_context_error(context.handle).decode("utf-8", "replace")
        raise error_for(status, message or lib.peft_status_text(status).decode())
    return status


def call(context, name, *arguments):
    """One C call under the context's lock (ctypes lets go of the interpreter lock, and a context is for one thread at a time)."""
    with context.lock:
        return check(context, getattr(lib, name)(*arguments))


def new_struct(kind, init=None, /, **values):
    """A structure with the library's defaults and some fields changed; unknown names are an error."""
    struct = kind()
    if init is None:
        struct.struct_size = ctypes.sizeof(kind)
    else:
        getattr(lib, init)(ctypes.byref(struct), ctypes.sizeof(kind))
    names = {field[0] for field in kind._fields_}
    for name, value in values.items():
        if name not in names or name in ("struct_size", "reserved"):
            raise TypeError(f"unknown option {name!r}; known: {', '.join(sorted(names - {'struct_size', 'reserved'}))}")
        setattr(struct, name, value.encode() if isinstance(value, str) else value)
    return struct


def int_array(values, what):
    """A contiguous int32 array; other integer types are converted when every value fits, floats are refused."""
    array = numpy.asarray(values)
    if array.dtype != numpy.int32:
        if array.dtype.kind not in "iu" and array.size:
            raise TypeError(f"{what}: expected integers, found {array.dtype}")
        if array.size and (array.min() < -(2**31) or array.max() >= 2**31):
            raise ValueError(f"{what}: a value does not fit in 32 bits")
        array = array.astype(numpy.int32)
    return numpy.ascontiguousarray(array)


def float_array(values, what):
    """A contiguous float32 array; nothing is cast silently."""
    array = numpy.asarray(values)
    if array.dtype != numpy.float32:
        raise TypeError(f"{what}: expected float32, found {array.dtype}; convert it with .astype(numpy.float32)")
    return numpy.ascontiguousarray(array)


def as_int_pointer(array):
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))


def as_float_pointer(array):
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def decode(text):
    return "" if text is None else text.decode("utf-8", "replace")
