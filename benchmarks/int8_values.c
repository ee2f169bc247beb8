// Convolutions 3x3 of stride 1 on values of 8 bits, for int8_values.py, which says what they are.
#include <immintrin.h>
#include <stdint.h>

struct job {
  const uint8_t *source;   // the first pixel of the first plane
  uint8_t *target;
  const int32_t *starts;   // of each output channel's entries
  const int32_t *offsets;  // bytes from a pixel to the one that an entry multiplies
  const int32_t *weights;  // four of 8 bits
  const float *scales, *bias;
  const uint8_t *mask;     // 255 where the target has a pixel
  int64_t plane;           // bytes from a plane of the target to the next
  int64_t tiles, groups;
};

#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)
#define INLINE static inline __attribute__((always_inline))

INLINE __m512i nearest(__m512i sums, float scale, float bias) {
  return _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(scale), _mm512_set1_ps(bias)));
}

// A pixel is the values of four channels, a weight those of four inputs: one instruction multiplies 16 pixels.
INLINE void four_inputs(const struct job *j, const int vectors) {
  const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  for (int64_t tile = 0; tile < j->tiles; tile++) {
    const int64_t here = tile * vectors * 64;
    for (int64_t group = 0; group < j->groups; group++) {
      __m512i sums[4][8];
      EACH(channel, 4) {
        const int64_t out = 4 * group + channel;
        EACH(v, vectors) sums[channel][v] = _mm512_setzero_si512();
        for (int64_t entry = j->starts[out]; entry < j->starts[out + 1]; entry++) {
          const uint8_t *pixels = j->source + here + j->offsets[entry];
          const __m512i weights = _mm512_set1_epi32(j->weights[entry]);
          EACH(v, vectors) sums[channel][v] = _mm512_dpbusd_epi32(sums[channel][v], _mm512_loadu_si512(pixels + 64 * v), weights);
        }
        EACH(v, vectors) sums[channel][v] = nearest(sums[channel][v], j->scales[out], j->bias[out]);
      }
      uint8_t *target = j->target + group * j->plane + here;
      EACH(v, vectors) {
        const __m512i low = _mm512_packs_epi32(sums[0][v], sums[1][v]), high = _mm512_packs_epi32(sums[2][v], sums[3][v]);
        // Saturation is the activation: nothing is below 0.
        const __m512i bytes = _mm512_shuffle_epi8(_mm512_packus_epi16(low, high), order);
        _mm512_storeu_si512(target + 64 * v, _mm512_and_si512(bytes, _mm512_loadu_si512(j->mask + here + 64 * v)));
      }
    }
  }
}

// A plane has one channel: four entries' pixels are interleaved first. 64 pixels at a time.
INLINE void any_inputs(const struct job *j, const int vectors) {
  for (int64_t tile = 0; tile < j->tiles; tile++) {
    const int64_t here = tile * vectors * 64;
    for (int64_t out = 0; out < j->groups; out++) {
      __m512i sums[8][4];
      EACH(v, vectors) EACH(i, 4) sums[v][i] = _mm512_setzero_si512();
      for (int64_t entry = j->starts[out]; entry < j->starts[out + 1]; entry++) {
        const __m512i weights = _mm512_set1_epi32(j->weights[entry]);
        const int32_t *offsets = j->offsets + 4 * entry;
        EACH(v, vectors) {
          const uint8_t *source = j->source + here + 64 * v;
          const __m512i a = _mm512_loadu_si512(source + offsets[0]), b = _mm512_loadu_si512(source + offsets[1]);
          const __m512i c = _mm512_loadu_si512(source + offsets[2]), d = _mm512_loadu_si512(source + offsets[3]);
          const __m512i ab = _mm512_unpacklo_epi8(a, b), cd = _mm512_unpacklo_epi8(c, d);
          const __m512i ab2 = _mm512_unpackhi_epi8(a, b), cd2 = _mm512_unpackhi_epi8(c, d);
          sums[v][0] = _mm512_dpbusd_epi32(sums[v][0], _mm512_unpacklo_epi16(ab, cd), weights);
          sums[v][1] = _mm512_dpbusd_epi32(sums[v][1], _mm512_unpackhi_epi16(ab, cd), weights);
          sums[v][2] = _mm512_dpbusd_epi32(sums[v][2], _mm512_unpacklo_epi16(ab2, cd2), weights);
          sums[v][3] = _mm512_dpbusd_epi32(sums[v][3], _mm512_unpackhi_epi16(ab2, cd2), weights);
        }
      }
      uint8_t *target = j->target + out * j->plane + here;
      EACH(v, vectors) {
        EACH(i, 4) sums[v][i] = nearest(sums[v][i], j->scales[out], j->bias[out]);
        const __m512i low = _mm512_packs_epi32(sums[v][0], sums[v][1]), high = _mm512_packs_epi32(sums[v][2], sums[v][3]);
        const __m512i mask = _mm512_loadu_si512(j->mask + here + 64 * v);
        _mm512_storeu_si512(target + 64 * v, _mm512_and_si512(_mm512_packus_epi16(low, high), mask));
      }
    }
  }
}

#define KERNELS(n) \
  void four_inputs_##n(const struct job *j) { four_inputs(j, n); } \
  void any_inputs_##n(const struct job *j) { any_inputs(j, n); }
KERNELS(1) KERNELS(2) KERNELS(3) KERNELS(4) KERNELS(5) KERNELS(6)
