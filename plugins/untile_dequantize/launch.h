// Queues the kernel on a stream; see kernel.cuh for the arrays.
#ifndef BOTTLEKIT_UNTILE_DEQUANTIZE_LAUNCH_H
#define BOTTLEKIT_UNTILE_DEQUANTIZE_LAUNCH_H

#include <cuda_runtime_api.h>

#include "untile_dequantize/options.h"

namespace bottlekit {

cudaError_t launch_untile_dequantize(uint8_t const* canvases, float const* ranges, int images,
                                     UntileDequantizeOptions options, float* features, int32_t* status,
                                     cudaStream_t stream);

}  // namespace bottlekit

#endif  // BOTTLEKIT_UNTILE_DEQUANTIZE_LAUNCH_H
