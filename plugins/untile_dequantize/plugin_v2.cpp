#include "bottlekit/plugin_v2.h"
#include "untile_dequantize/layer.h"

namespace bottlekit {

static Registrar<CreatorV2<UntileDequantizeLayer>> registrar;

}  // namespace bottlekit
