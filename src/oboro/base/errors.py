"""The exceptions that mean: the user can fix this; and how others are known for lack of memory."""

import errno

# What CUDA, cuDNN, cuBLAS, MPS and the allocator of the CPU say, in lower case.
SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "_alloc_failed")


class UserError(Exception):
    """A mistake in the input of a run. The message is one clear sentence that ends with the remedy.

    Entry points print it without a traceback and exit with status 1.
    """


class OwnFault(UserError):
    """A fault of this process, which the other ranks may not have met: whoever meets it prints it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory has run out, of a device or of the machine."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    known = isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)
    return known or isinstance(error, MemoryError)


def first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
