"""The context: threads, memory limit, log."""

import ctypes
import threading
import weakref

from . import _abi
from ._base import check, decode, new_struct
from ._errors import StateError, error_for
from ._lib import lib


class Context:
    """Everything hangs on a context. `log` is called with (level, line); levels are 1 error, 2 warning, 3 info, 4 debug."""

    def __init__(self, threads=0, memory_limit=0, log=None, log_level=2, cpu_features=None):
        self.lock = threading.RLock()
        options = new_struct(_abi.ContextOptions, "peft_context_options_init_sized", threads=threads, memory_limit=memory_limit, log_level=log_level)
        if cpu_features is not None:
            options.cpu_features = cpu_features
        self.log_errors = []  # exceptions raised inside `log`: they cannot cross C
        if log is not None:
            errors = self.log_errors

            def write(_user, level, line):
                try:
                    log(level, decode(line))
                except BaseException as error:  # noqa: BLE001 - nothing may leave a C callback
                    errors.append(error)

            self._log = _abi.LogFn(write)  # kept: C holds the address
            options.log = self._log
        pointer = ctypes.c_void_p()
        status = lib.peft_context_create_abi(ctypes.byref(options), _abi.ABI_VERSION, ctypes.byref(pointer))
        if status < 0:
            raise error_for(status, decode(lib.peft_status_text(status)))
        self._pointer = pointer.value
        # The callback must outlive the last C object that may log: the finalizer holds it.
        self._finalizer = weakref.finalize(self, _destroy_context, pointer.value, getattr(self, "_log", None))

    @property
    def handle(self):
        if self._pointer is None:
            raise StateError("Context is closed")
        return self._pointer

    def close(self):
        if self._pointer is not None:
            with self.lock:
                self._pointer = None
                self._finalizer()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    @property
    def threads(self):
        return lib.peft_context_threads(self.handle)

    @threads.setter
    def threads(self, count):
        with self.lock:
            check(self, lib.peft_context_set_threads(self.handle, count))

    def memory(self):
        """Bytes held now, most bytes ever held, and allocations made."""
        now, peak, count = ctypes.c_uint64(), ctypes.c_uint64(), ctypes.c_uint64()
        lib.peft_context_memory(self.handle, ctypes.byref(now), ctypes.byref(peak), ctypes.byref(count))
        return {"bytes": now.value, "peak": peak.value, "allocations": count.value}

    def reset_peak(self):
        """From now on memory["peak"] is that of what comes."""
        lib.peft_context_reset_peak(self.handle)

    @property
    def build_info(self):
        return decode(lib.peft_context_build_info(self.handle))


def _destroy_context(pointer, _log):
    lib.peft_context_destroy(pointer)
