"""Conditionally deep hybrid networks: low-bit blocks and early exits on the device, full precision in the cloud.

spec        what a hybrid network is: its last low-bit block, bits, exits
low_bit     the quantised convolution (Brevitas), and the same one for export, in standard operators
blocks      puts it into the blocks of a backbone
network     the whole: pieces, exits, bottleneck unit and codec, cloud
work        multiply-accumulates by precision and place
checkpoint  the file
"""
