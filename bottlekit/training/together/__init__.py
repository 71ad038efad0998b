"""Training one network on two machines: pieces of it forward and backward where a schedule says (JointDNN, 3.5).

    Trainer (mobile: images, labels, loss, pieces) <==layers.thrift==> TrainingWork (cloud: pieces)

After every step the mobile has all weights and all of the optimiser's state, which is the paper's download of what
the cloud changed: so a server that dies takes at most the step in flight with it.
"""
