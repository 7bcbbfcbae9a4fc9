"""Finds and loads the shared library, sets every prototype, and compares versions.

Order: the PEFT_LIBRARY environment variable, the library inside this package, the system's. The library is opened with
RTLD_LOCAL, so its symbols do not meet those of other extensions.
"""

import ctypes
import ctypes.util
import os
import pathlib

from . import _abi
from ._errors import AbiError


def _candidates():
    asked = os.environ.get("PEFT_LIBRARY")
    if asked:
        yield asked
        return
    here = pathlib.Path(__file__).resolve().parent
    # The second folder is where a wheel has it; the first is for programs that ship the package and the library themselves.
    for folder in (here, here.parent / ".libpeft.mesonpy.libs"):
        for name in ("libpeft.so", "libpeft.so.0"):
            if (folder / name).exists():
                yield str(folder / name)
    yield ctypes.util.find_library("peft") or "libpeft.so.0"


def _load():
    tried = []
    for path in _candidates():
        try:
            library = ctypes.CDLL(path, mode=ctypes.RTLD_LOCAL)
        except OSError as error:
            tried.append(f"{path}: {error}")
            continue
        for name, (result, arguments) in _abi.PROTOTYPES.items():
            try:
                function = getattr(library, name)
            except AttributeError:
                raise AbiError(f"{path} has no {name}: it belongs to another version than the package in {__file__}") from None
            function.restype = result
            function.argtypes = arguments
        found = library.peft_abi_version()
        if found != _abi.ABI_VERSION:
            raise AbiError(f"{path} has interface {found}, the package in {__file__} was written for {_abi.ABI_VERSION}")
        return library, path
    raise AbiError("libpeft.so was not found; tried " + "; ".join(tried))


lib, library_path = _load()
