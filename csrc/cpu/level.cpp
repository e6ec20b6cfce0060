#include "level.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>

namespace skreg {

Sums run_chunk_baseline(const Layer &, const Pass &, int64_t, int64_t, void *);
Sums run_chunk_avx2(const Layer &, const Pass &, int64_t, int64_t, void *);
Sums run_chunk_avx512(const Layer &, const Pass &, int64_t, int64_t, void *);

namespace {

struct Level {
  const char *name;
  ChunkFunction function;
};

const std::vector<Level> &levels() {
  static const std::vector<Level> found = [] {
    std::vector<Level> result{{"baseline", run_chunk_baseline}};
#if defined(__x86_64__)
    // f16c is older than avx2 and in every processor that has it; not every compiler can ask for it.
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      result.push_back({"avx2", run_chunk_avx2});
      if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        result.push_back({"avx512", run_chunk_avx512});
    }
#endif
    return result;
  }();
  return found;
}

std::atomic<const Level *> &current() {
  static std::atomic<const Level *> level{&levels().back()};
  return level;
}

} // namespace

int64_t scratch_bytes(int64_t size) {
  int64_t elements = size * tile_kernels(size); // smaller kernels may come in larger tiles
  for (const int64_t smaller : {std::min<int64_t>(size, 9), std::min(size, kPackedSize)})
    elements = std::max(elements, smaller * tile_kernels(smaller));
  constexpr int64_t widest = 64 / sizeof(float);
  const int64_t stages = 3 * (elements + 48), vectors = 3 * size * widest, offsets = 4 * size;
  return (stages + vectors + offsets) * int64_t(sizeof(double)) + 64;
}

ChunkFunction chunk_function() { return current().load(std::memory_order_relaxed)->function; }
std::string simd_level() { return current().load()->name; }

std::vector<std::string> simd_levels() {
  std::vector<std::string> names;
  for (const Level &level : levels())
    names.push_back(level.name);
  return names;
}

void use_simd_level(const std::string &name) {
  for (const Level &level : levels())
    if (level.name == name) {
      current().store(&level);
      return;
    }
  throw std::invalid_argument("SIMD level \"" + name + "\": not one that this processor runs");
}

} // namespace skreg
