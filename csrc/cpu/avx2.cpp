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
#define SKREG_MIN _mm256_min_ps // of which the second operand passes where one is nan
#define SKREG_MAX _mm256_max_ps
static inline float half_to_float(unsigned short bits) { return _cvtsh_ss(bits); }
static inline unsigned short float_to_half(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }

#define SKREG_HALVES 8 // converted at a time
static inline void halves_to_floats(const unsigned short *from, float *to) {
  _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from))));
}
static inline void floats_to_halves(const float *from, unsigned short *to) {
  const __m128i bits = _mm256_cvtps_ph(_mm256_loadu_ps(from), _MM_FROUND_TO_NEAREST_INT);
  _mm_storeu_si128(reinterpret_cast<__m128i *>(to), bits);
}

#include "run.h"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
