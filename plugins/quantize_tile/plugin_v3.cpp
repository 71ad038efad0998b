#include "bottlekit/plugin_v3.h"
#include "quantize_tile/layer.h"

namespace bottlekit {

static Registrar<CreatorV3<QuantizeTileLayer>> registrar;

}  // namespace bottlekit
