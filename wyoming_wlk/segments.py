"""The numbers of a client's segments, for everybody who has to name one: pure."""

from __future__ import annotations

from wyoming_wlk.events import Event, Finished, SegmentEnded, TextUpdate


class SegmentNumbers:
    """Counts, from 1, the segments that have words."""

    def __init__(self) -> None:
        self.open = False
        self._number = 0

    def take(self, event: Event) -> int:
        """The segment that an event belongs to, 0 before the first."""
        if isinstance(event, TextUpdate) and event.committed and not self.open:
            self._number, self.open = self._number + 1, True
        elif isinstance(event, SegmentEnded | Finished):
            if isinstance(event, SegmentEnded) and not self.open:  # all its words were committed before the last end
                self._number += 1
            self.open = False
        return self._number

    @property
    def current(self) -> int:
        """The segment that the next words belong to."""
        return self._number if self.open else self._number + 1
