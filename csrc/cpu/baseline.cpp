// Plain code for every processor.
#include <torch/headeronly/util/Half.h>

#pragma GCC diagnostic ignored "-Wpsabi"
#define SKREG_ARITHMETIC skreg_baseline
#define SKREG_VECTOR_BYTES 16
#define SKREG_CHUNK_FUNCTION run_chunk_baseline

static inline float half_to_float(unsigned short bits) { return c10::detail::fp16_ieee_to_fp32_value(bits); }
static inline unsigned short float_to_half(float x) { return c10::detail::fp16_ieee_from_fp32_value(x); }

#include "run.h"
