#include "bottlekit/plugin_v2.h"
#include "quantize_tile/layer.h"

namespace bottlekit {

static Registrar<CreatorV2<QuantizeTileLayer>> registrar;

}  // namespace bottlekit
