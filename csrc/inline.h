// Inlining and unrolling in the words of each compiler.
#pragma once

#ifdef __CUDACC__
#define SKREG_INLINE __host__ __device__ __forceinline__
#else
#define SKREG_INLINE inline __attribute__((always_inline))
#endif
