# Triton with what bottlekit's decoders import. Triton 2.51 (24.10) misreads the arrays of numpy 2.
FROM nvcr.io/nvidia/tritonserver:24.10-py3

RUN pip install --no-cache-dir "numpy<2" "pillow>=10" "simplejpeg>=1.7"
