"""Work that goes on beside training."""

import threading
from collections.abc import Callable


class Background:
    """One piece of work at a time, in a thread of its own that does not keep the process alive."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Waits for the piece before it, with what that raised."""

        def run() -> None:
            try:
                work()
            except BaseException as error:  # the thread that waits raises it
                self._error = error

        self.wait()
        self._thread = threading.Thread(target=run, name="background", daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether nothing is under way any more, after ``seconds`` at most. Raises what the work has raised, once."""
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                return False
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        return True
