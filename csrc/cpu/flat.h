// 3x3 kernels that lie one after the other, computed as they lie. Nine vectors hold as many kernels as a vector has
// lanes: element i of the nine is position i % 9 of kernel i / 9. A neighbour is a load at another offset, masked where
// the kernel ends, and nothing has to be transposed.
//
// Sums over a kernel need no permutations by table either. Three consecutive vectors hold whole rows of three, and
// since the number of lanes is a power of two, each lane meets each column in exactly one of the three vectors: a blend
// by a constant gathers a column, a rotation brings it under its neighbour. Three vectors of row sums become kernel
// sums in the same way. The sum of kernel c ends in lane 9 c modulo the lanes.
#pragma once

#include "simd.h"

namespace SKREG_ARITHMETIC {

// All bits set where a position has the neighbour; and how many neighbours it has, less one.
template <int lanes> struct FlatMasks {
  alignas(64) int32_t right[9 * lanes] = {}, left[9 * lanes] = {}, down[9 * lanes] = {}, up[9 * lanes] = {};
  alignas(64) float degree_less_one[9 * lanes] = {};
  constexpr FlatMasks() {
    for (int i = 0; i < 9 * lanes; i++) {
      right[i] = i % 3 < 2 ? -1 : 0;
      left[i] = i % 3 > 0 ? -1 : 0;
      down[i] = i % 9 < 6 ? -1 : 0;
      up[i] = i % 9 > 2 ? -1 : 0;
      degree_less_one[i] = float(-1 - right[i] - left[i] - down[i] - up[i]);
    }
  }
};

struct Flat {
  using Vector = FloatVector;
  static constexpr int lanes = VectorOf<float>::width, margin = 3; // margin: elements read on both sides
  typedef int32_t Bits __attribute__((vector_size(SKREG_VECTOR_BYTES)));
  typedef float Anywhere __attribute__((vector_size(SKREG_VECTOR_BYTES), aligned(alignof(float)), may_alias));

  static constexpr FlatMasks<lanes> masks{};

  static SKREG_INLINE Vector load(const float *p) { return *reinterpret_cast<const Anywhere *>(p); }
  static SKREG_INLINE Vector masked(Vector v, const int32_t *mask) {
    return (Vector)((Bits)v & *reinterpret_cast<const Bits *>(mask));
  }

  // Which of three consecutive vectors holds column (or row) `digit` in a lane; x is the digit that the lane has in
  // vector 0.
  static constexpr int vector_of(int digit, int x) {
    for (int j = 0; j < 3; j++)
      if ((lanes * j + x) % 3 == digit)
        return j;
    return 0;
  }
  static constexpr int inverse(int odd) { // modulo the lanes
    int i = 1;
    while (odd * i % lanes != 1)
      i++;
    return i;
  }
  // The kernel whose sum ends in a lane, and back.
  static constexpr int kernel_of(int lane) { return inverse(9) * lane % lanes; }
  static constexpr int lane_of(int kernel) { return 9 * kernel % lanes; }

  // Lane l of the result comes from vector `vector_of(digit, place * l)`.
  template <int Digit, int Place, int... L>
  static SKREG_INLINE Vector blend(const Vector *v, std::integer_sequence<int, L...>) {
    constexpr auto from = [](int lane) { return vector_of(Digit, Place * lane % lanes); };
    const Vector two = SKREG_SHUFFLE(Vector, v[0], v[1], (from(L) == 1 ? L + lanes : L)...);
    return SKREG_SHUFFLE(Vector, two, v[2], (from(L) == 2 ? L + lanes : L)...);
  }
  template <int By, int... L> static SKREG_INLINE Vector rotate(Vector v, std::integer_sequence<int, L...>) {
    return SKREG_SHUFFLE(Vector, v, v, ((L + By) % lanes)...);
  }
  // Sums of three by three digits: Place is what a lane counts in the unit that the digits count in.
  template <int Place, int Step> static SKREG_INLINE Vector sum_digits(const Vector *v) {
    constexpr std::make_integer_sequence<int, lanes> all{};
    return blend<0, Place>(v, all) + rotate<Step>(blend<1, Place>(v, all), all) +
           rotate<2 * Step>(blend<2, Place>(v, all), all);
  }

  static Vector first_kernels(Vector x, int count) {
    for (int i = 0; i < lanes; i++)
      if (kernel_of(i) >= count)
        x[i] = 0;
    return x;
  }

  // Nine vectors of the factors of kernels, in lanes as `kernel_of` tells.
  template <int J, int... L> static SKREG_INLINE Vector spread(Vector factor, std::integer_sequence<int, L...>) {
    return SKREG_SHUFFLE(Vector, factor, factor, lane_of((lanes * J + L) / 9)...);
  }
  template <int J> static SKREG_INLINE Vector spread(Vector factor) {
    return spread<J>(factor, std::make_integer_sequence<int, lanes>{});
  }

  // Half the slope of the score at nine vectors, handed to use(j, half_slope). Returns the scores, by kernel (in lanes
  // as `kernel_of` tells) or in any order. The score is D - E where `subtract`, else D. D is a sum of squared
  // differences, which stays accurate where it is small; D - E is dominated by E there, and half its slope times the
  // kernel is cheaper.
  template <bool by_kernel, bool slopes, bool subtract, class Use>
  static SKREG_INLINE Vector scores(const float *k, Use &&use) {
    Vector rows[3];
    unrolled(std::make_integer_sequence<int, 3>{}, [&](auto m) SKREG_INLINE_LAMBDA {
      Vector part[3];
      unrolled(std::make_integer_sequence<int, 3>{}, [&](auto i) SKREG_INLINE_LAMBDA {
        constexpr int at = (3 * m.value + i.value) * lanes;
        const float *p = k + at;
        const Vector here = load(p);
        Vector half_slope;
        if constexpr (subtract && slopes) {
          const Vector beside = masked(load(p + 1), masks.right + at) + masked(load(p - 1), masks.left + at);
          const Vector above = masked(load(p + 3), masks.down + at) + masked(load(p - 3), masks.up + at);
          half_slope = here * *reinterpret_cast<const Vector *>(masks.degree_less_one + at) - (beside + above);
          part[i] = here * half_slope;
        } else {
          const Vector right = masked(here - load(p + 1), masks.right + at);
          const Vector down = masked(here - load(p + 3), masks.down + at);
          part[i] = right * right + down * down;
          if constexpr (subtract)
            part[i] -= here * here;
          if constexpr (slopes)
            half_slope = (right + masked(here - load(p - 1), masks.left + at)) +
                         (down + masked(here - load(p - 3), masks.up + at));
        }
        if constexpr (slopes)
          use(Index<3 * m.value + i.value>{}, half_slope);
      });
      rows[m] = by_kernel ? sum_digits<1, 1>(part) : part[0] + part[1] + part[2];
    });
    return by_kernel ? sum_digits<inverse(3), 3>(rows) : rows[0] + rows[1] + rows[2];
  }
};

} // namespace SKREG_ARITHMETIC
