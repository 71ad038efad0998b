#include "bottlekit/plugin_v3.h"
#include "quantize_tile/layer.h"

namespace bottlekit {

using QuantizeTileCreator = CreatorV3<QuantizeTileLayer>;
REGISTER_TENSORRT_PLUGIN(QuantizeTileCreator);

}  // namespace bottlekit
