// Queues the kernel on a stream; see kernel.cuh for the arrays.
#ifndef BOTTLEKIT_QUANTIZE_TILE_LAUNCH_H
#define BOTTLEKIT_QUANTIZE_TILE_LAUNCH_H

#include <cuda_runtime_api.h>

#include "quantize_tile/options.h"

namespace bottlekit {

cudaError_t launch_quantize_tile(float const* features, int images, QuantizeTileOptions options, uint8_t* canvases,
                                 float* ranges, int32_t* status, cudaStream_t stream);

}  // namespace bottlekit

#endif  // BOTTLEKIT_QUANTIZE_TILE_LAUNCH_H
