#if defined(__x86_64__)
#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>
#include <type_traits>
#include <utility>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#pragma GCC diagnostic ignored "-Wpsabi"
#endif
#define SKREG_ARITHMETIC skreg_avx2
#define SKREG_VECTOR_BYTES 32
#define SKREG_CHUNK_FUNCTION run_chunk_avx2

static inline void stream_store(float *p, __m256 v) { _mm256_stream_ps(p, v); }
static inline void stream_store(double *p, __m256d v) { _mm256_stream_pd(p, v); }
#define SKREG_STREAM_STORE stream_store
static inline float half_to_float(unsigned short bits) { return _cvtsh_ss(bits); }
static inline unsigned short float_to_half(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }

#include "run.h"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
