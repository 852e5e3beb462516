"""What the server that runs the process and the application in it tell each other."""

from __future__ import annotations


class Lifecycle:
    """Shared by both; read and written in the event loop's thread only."""

    def __init__(self) -> None:
        self.draining = False
        """New work is refused; what was admitted is finished."""
        self.live = False
        """Loading is over, and at least one model answers."""
        self.failure: str | None = None
        """Why nothing can be served, when no model came to life."""
