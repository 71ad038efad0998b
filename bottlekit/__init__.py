"""bottlekit: learned bottlenecks, split inference, and the measurements to choose between them.

This module is also imported on devices that run Python 3.6, so it imports nothing.
"""

__version__ = "0.1.0"
