"""The exceptions that mean: the user can fix this."""


class UserError(Exception):
    """A mistake in the input of a run. The message is one clear sentence that ends with the remedy.

    Entry points print it without a traceback and exit with status 1.
    """


class OwnFault(UserError):
    """A fault of this process, which the other ranks may not have met: whoever meets it prints it."""
