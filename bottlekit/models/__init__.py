"""Workshop: backbones, their split points, bottleneck units, and the network they make together.

backbones  the networks and, as data, where each can be cut      torchvision_import  import it on any torch
splits     the shapes at those places                            macs                multiply-accumulates
cut        one network -> head and tail, sharing weights
units      reduction and restoration                             codec_layer         the codec in the graph
network    backbone + unit + codec = SplitNetwork
checkpoint bottlekit's own files                                 foreign             torchvision state dicts
tensors    named tensors, for both
"""
