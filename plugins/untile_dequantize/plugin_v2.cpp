#include "bottlekit/plugin_v2.h"
#include "untile_dequantize/layer.h"

namespace bottlekit {

using UntileDequantizeCreator = CreatorV2<UntileDequantizeLayer>;
REGISTER_TENSORRT_PLUGIN(UntileDequantizeCreator);

}  // namespace bottlekit
