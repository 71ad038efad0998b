#include "bottlekit/plugin_v3.h"
#include "untile_dequantize/layer.h"

namespace bottlekit {

using UntileDequantizeCreator = CreatorV3<UntileDequantizeLayer>;
REGISTER_TENSORRT_PLUGIN(UntileDequantizeCreator);

}  // namespace bottlekit
