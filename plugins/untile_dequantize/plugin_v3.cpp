#include "bottlekit/plugin_v3.h"
#include "untile_dequantize/layer.h"

namespace bottlekit {

static Registrar<CreatorV3<UntileDequantizeLayer>> registrar;

}  // namespace bottlekit
