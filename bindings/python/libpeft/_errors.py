"""Exceptions: one class per error status, carrying the C library's sentence."""

from ._abi import STATUS


class PeftError(Exception):
    """A call of libpeft failed. `status` is the number, `name` its name; the text says what, expected, found and where."""

    status = -13

    @property
    def name(self):
        return STATUS.get(self.status, "PEFT_?")


class ArgumentError(PeftError, ValueError):
    status = -1


class StateError(PeftError):
    status = -2


class OutOfMemoryError(PeftError, MemoryError):
    status = -3


class LimitError(PeftError):
    status = -4


class FileError(PeftError, OSError):
    status = -5

    def __str__(self):
        return str(self.args[0]) if self.args else ""


class FormatError(PeftError, ValueError):
    status = -6


class UnsupportedError(PeftError, NotImplementedError):
    status = -7


class MismatchError(PeftError, ValueError):
    status = -8


class NonFiniteError(PeftError, ArithmeticError):
    status = -9


class CancelledError(PeftError):
    status = -10


class CallbackError(PeftError):
    status = -11


class AbiError(PeftError, ImportError):
    status = -12


_BY_STATUS = {
    kind.status: kind
    for kind in (ArgumentError, StateError, OutOfMemoryError, LimitError, FileError, FormatError, UnsupportedError, MismatchError,
                 NonFiniteError, CancelledError, CallbackError, AbiError)
}


def error_for(status, message):
    """The exception for a negative status."""
    kind = _BY_STATUS.get(status)
    if kind is None:
        error = PeftError(message)
        error.status = status
        return error
    return kind(message)
