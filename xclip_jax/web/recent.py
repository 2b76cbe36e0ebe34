"""What was made lately, kept up to a number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable


class Recent:
    """Values by key, those unused for longest given up first; may be used from several threads."""

    def __init__(self, most_bytes: int):
        self.most_bytes, self.bytes = most_bytes, 0
        self._held: OrderedDict[Hashable, tuple[object, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable):
        """Returns the value of a key, None where it is not kept."""
        with self._lock:
            if key not in self._held:
                return None
            self._held.move_to_end(key)
            return self._held[key][0]

    def put(self, key: Hashable, value, size: int) -> None:
        """Keeps a value of so many bytes, unless it alone is more than all may be."""
        with self._lock:
            if key in self._held:
                self.bytes -= self._held.pop(key)[1]
            if size > self.most_bytes:
                return
            self._held[key] = value, size
            self.bytes += size
            while self.bytes > self.most_bytes:
                self.bytes -= self._held.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Gives all of it up."""
        with self._lock:
            self._held.clear()
            self.bytes = 0

    def of(self, key: Hashable, make: Callable, size: Callable[[object], int]):
        """Returns the value of a key, made where it is not kept."""
        value = self.get(key)
        if value is None:
            value = make()
            self.put(key, value, size(value))
        return value
