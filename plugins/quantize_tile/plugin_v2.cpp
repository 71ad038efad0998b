#include "bottlekit/plugin_v2.h"
#include "quantize_tile/layer.h"

namespace bottlekit {

using QuantizeTileCreator = CreatorV2<QuantizeTileLayer>;
REGISTER_TENSORRT_PLUGIN(QuantizeTileCreator);

}  // namespace bottlekit
