"""A tail behind gRPC, as one would write it by hand: bytes in, bytes out, no generated code. For serving.py.

    python benchmarks/grpc_tail.py BUNDLE ENGINES [THREADS]        prints {"host", "port"}; runs until SIGTERM

A request is a payload, an answer all logits as float32, little endian: nothing else is sent, so that it costs what
gRPC costs. Payloads are decoded and the tail runs in one thread beside the event loop, one request at a time.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

from bottlekit.device.bundle import Bundle
from bottlekit.device.engine import engines_for_bundle
from bottlekit.device.runners import Runner, runner_from_engine

SERVICE, METHOD = "bottlekit.Tail", "Infer"


async def serve(bundle: Bundle, tail: Runner) -> None:
    """Answer until SIGTERM."""
    loop = asyncio.get_running_loop()

    def computed(payload: bytes) -> bytes:
        logits = tail.run({"feature": bundle.codec.decode(payload)[None]})["logits"][0]
        return bytes(logits.astype("<f4").tobytes())

    with ThreadPoolExecutor(1) as thread:

        async def infer(payload: bytes, _context: object) -> bytes:
            return await loop.run_in_executor(thread, computed, payload)

        # Without serializers requests and answers are bytes.
        handler = grpc.unary_unary_rpc_method_handler(infer)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        ended = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        print(json.dumps({"host": "127.0.0.1", "port": port}), flush=True)
        await ended.wait()
        await server.stop(None)


def main() -> None:
    """Load, listen."""
    path, engines = sys.argv[1:3]
    threads = int(sys.argv[3]) if len(sys.argv) > 3 else None
    bundle = Bundle.load(path)
    with runner_from_engine(engines_for_bundle(engines, bundle, "cpu")["tail"], threads, spin=False) as tail:
        asyncio.run(serve(bundle, tail))


if __name__ == "__main__":
    main()
