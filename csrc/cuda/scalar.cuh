// What penalty.h needs of a number type, for float and double. To be included before penalty.h.
#pragma once

#include "../inline.h"

namespace skreg {

SKREG_INLINE float select(bool m, float x, float y) { return m ? x : y; }
SKREG_INLINE double select(bool m, double x, double y) { return m ? x : y; }

SKREG_INLINE float exponential_function(float x) { return expf(x); }
SKREG_INLINE double exponential_function(double x) { return exp(x); }

} // namespace skreg
