"""A network's layers between two machines, with any number of switches: what a schedule says, done.

    schedule.json -> Route --Traveller--> here: Segments      there: SegmentClient ==layers.thrift==> SegmentServer

`source` is what both machines have: the layers, and any group of them ready to run. `arrays` are the tensors on the
wire, `messages` the frames, `work` what a server does with a segment. Nothing here imports onnx: who cuts the graph
is injected.
"""
