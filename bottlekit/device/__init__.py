"""The device island: Python 3.6 source that runs on the laptop, the server and the Jetson alike.

Nothing here imports torch, or anything of bottlekit outside this package. The standard library and numpy
are always there; Pillow, thrift, onnxruntime, tensorrt and the CUDA providers are imported where they are
used, so that a machine without them can still do everything else.
"""
