// The SIMD levels that this binary holds, and the one in use.
#pragma once

#include <string>
#include <vector>

#include "../layer.h"

namespace skreg {

using ChunkFunction = Sums (*)(const Layer &, const Pass &, int64_t begin, int64_t end, void *scratch);

// Scratch memory that a chunk function needs for kernels of up to `size` elements, in bytes; aligned to 64.
int64_t scratch_bytes(int64_t size);

ChunkFunction chunk_function();
std::string simd_level();
std::vector<std::string> simd_levels();   // that this processor can run, slowest first
void use_simd_level(const std::string &); // for tests; std::invalid_argument for one that it can't

} // namespace skreg
