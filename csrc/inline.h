// Inlining and unrolling in the words of each compiler.
#pragma once

#ifdef __CUDACC__
#define SKREG_INLINE __host__ __device__ __forceinline__
#define SKREG_INLINE_LAMBDA
#else
#define SKREG_INLINE inline __attribute__((always_inline))
#define SKREG_INLINE_LAMBDA __attribute__((always_inline)) // goes after the parameters
#endif
