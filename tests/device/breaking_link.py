"""A network between a client and a server that can be cut, or that swallows what is sent."""

import contextlib
import socket
import struct
import threading

from servers import join


class Link:
    """A proxy whose connections can be cut after so many more bytes, or swallow everything, their end included.

    `address` leads to the address it was made with. `up_left` and `down_left` are the bytes that still come
    through before a cut; `connections` counts those that were made.
    """

    def __init__(self, address):
        self._address = address
        self._listening = socket.socket()
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(16)
        self._sockets = []
        self._threads = []
        self.up_left = self.down_left = float("inf")
        self.swallow = False
        self.connections = 0

    def __enter__(self):
        self._start(self._accept)
        return self

    def __exit__(self, *_exception):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
        join(*self._threads)
        for one in self._sockets:
            one.close()

    @property
    def address(self):
        return self._listening.getsockname()

    def cut(self):
        """Break all connections, with a reset."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)

    def _start(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near = self._listening.accept()[0]
                self.connections += 1
                try:
                    far = socket.create_connection(self._address)
                except OSError:
                    near.close()
                    continue
                self._sockets += [near, far]
                self._start(self._pump, near, far, "up_left")
                self._start(self._pump, far, near, "down_left")

    def _pump(self, source, target, counter):
        with contextlib.suppress(OSError):
            for data in iter(lambda: source.recv(65536), b""):
                if self.swallow:
                    continue
                left = getattr(self, counter)
                if len(data) > left:
                    target.sendall(data[: int(left)])
                    setattr(self, counter, float("inf"))
                    break
                setattr(self, counter, left - len(data))
                target.sendall(data)
        if self.swallow:
            return
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
