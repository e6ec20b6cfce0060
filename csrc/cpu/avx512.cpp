#if defined(__x86_64__)
#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>
#include <type_traits>
#include <utility>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))),              \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#pragma GCC diagnostic ignored "-Wpsabi"
#endif
#define SKREG_ARITHMETIC skreg_avx512
#define SKREG_VECTOR_BYTES 64
#define SKREG_CHUNK_FUNCTION run_chunk_avx512

static inline void stream_store(float *p, __m512 v) { _mm512_stream_ps(p, v); }
static inline void stream_store(double *p, __m512d v) { _mm512_stream_pd(p, v); }
#define SKREG_STREAM_STORE stream_store
static inline float half_to_float(unsigned short bits) { return _cvtsh_ss(bits); }
static inline unsigned short float_to_half(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }

#include "run.h"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
