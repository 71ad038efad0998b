"""Feed a decoder what a coverage-guided fuzzer comes up with.

    python tests/device/fuzz_codecs.py -max_total_time=60        (needs atheris; takes libFuzzer's options)

Whatever the bytes, a decoder gives a feature of its shape with finite values, or a PayloadError. Anything else ends
the run with a traceback, as do more than LARGEST_MIB of memory or a payload that takes more than a second.
"""

import os
import resource
import sys
import time

import atheris
import numpy as np

with atheris.instrument_imports(include=["bottlekit.device"]):
    from calibrated import calibrated_codecs

    from bottlekit.device.errors import PayloadError

LARGEST_MIB = 1024


CODECS = list(calibrated_codecs())


def decode(data):
    """The first byte chooses the codec, the second whether the rest is a payload or changes to a good one."""
    if len(data) < 2:
        return
    codec, payload = CODECS[data[0] % len(CODECS)]
    stream = data[2:]
    if data[1] & 1:
        changed = bytearray(payload)
        for place, value in zip(stream[::2], stream[1::2]):
            changed[place % len(changed)] ^= value
        stream = bytes(changed)
    started = time.process_time()
    try:
        feature = codec.decode(stream)
    except PayloadError:
        return
    finally:
        assert time.process_time() - started < 5, codec
    assert feature.shape == codec.shape, codec
    assert feature.dtype == np.float32, codec
    assert np.isfinite(feature).all(), codec
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < LARGEST_MIB << 10, codec


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], "-rss_limit_mb=0", "-max_len=2048"] + sys.argv[1:], decode)
    atheris.Fuzz()
    os._exit(0)
