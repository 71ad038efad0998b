"""Workshop: backbones, their split points, bottleneck units, and the network they make together."""
