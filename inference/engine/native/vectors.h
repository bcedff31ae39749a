/* Sixteen lanes at a time, on any CPU: the same bits wherever they run. */

#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define LANES 16
#define inline_ static inline __attribute__((always_inline))

typedef float f32 __attribute__((vector_size(64), aligned(4)));
typedef int32_t i32 __attribute__((vector_size(64), aligned(4)));
typedef uint8_t u8 __attribute__((vector_size(64), aligned(4)));
typedef int8_t i8x16 __attribute__((vector_size(16), aligned(1)));
typedef _Float16 f16;
typedef f16 f16x16 __attribute__((vector_size(32), aligned(2)));

inline_ f32 all(float x) { return (f32){} + x; }
inline_ f32 load(const float *from) { return *(const f32 *)from; }
inline_ void store(float *to, f32 x) { *(f32 *)to = x; }
inline_ f32 load_half(const f16 *from) {
    return __builtin_convertvector(*(const f16x16 *)from, f32);
}
inline_ f32 fma_(f32 a, f32 b, f32 c) { return __builtin_elementwise_fma(a, b, c); }
inline_ f32 max_(f32 a, f32 b) { return __builtin_elementwise_max(a, b); }

inline_ f32 choose(i32 mask, f32 yes, f32 no) {
    return (f32)(((i32)yes & mask) | ((i32)no & ~mask));
}

inline_ float sum(f32 x) {
    float lanes[LANES];
    store(lanes, x);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
}

inline_ float largest(f32 x) {
    float lanes[LANES], most;
    store(lanes, x);
    most = lanes[0];
    for (int i = 1; i < LANES; i++) most = lanes[i] > most ? lanes[i] : most;
    return most;
}

/* e^x for x <= 0 or moderate x: 2^n times a polynomial on [-ln2/2, ln2/2] (Cephes' expf). */
inline_ f32 exp_(f32 x) {
    x = max_(x, all(-87.0f));
    x = __builtin_elementwise_min(x, all(88.0f));
    f32 n = __builtin_elementwise_roundeven(x * all(1.44269504f));
    f32 r = fma_(n, all(-0.693359375f), x);
    r = fma_(n, all(2.12194440e-4f), r);
    f32 p = all(1.9875691500e-4f);
    p = fma_(p, r, all(1.3981999507e-3f));
    p = fma_(p, r, all(8.3334519073e-3f));
    p = fma_(p, r, all(4.1665795894e-2f));
    p = fma_(p, r, all(1.6666665459e-1f));
    p = fma_(p, r, all(5.0000001201e-1f));
    p = fma_(p, r * r, r) + all(1.0f);
    i32 bits = (__builtin_convertvector(n, i32) + 127) << 23;
    return p * (f32)bits;
}

/* The lanes where `mask` is set, side by side; how many. Up to 16 are written. */
inline_ int compress(float *to, f32 x, i32 mask) {
#if defined(__AVX512DQ__)
    __mmask16 chosen = _mm512_movepi32_mask((__m512i)mask);
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps(chosen, (__m512)x));
    return __builtin_popcount(chosen);
#else
    int found = 0;
    for (int i = 0; i < LANES; i++) {
        to[found] = x[i];
        found -= mask[i];
    }
    return found;
#endif
}

/* For each of 16 outputs: acc + the sum of four products; exact on every CPU. */
inline_ i32 dot4(i32 acc, u8 weights, int32_t four) {
#if defined(__AVX512VNNI__)
    return (i32)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)weights, _mm512_set1_epi32(four));
#else
    union { u8 whole; uint8_t bytes[64]; } w = {weights};
    union { i32 whole; int32_t lanes[LANES]; } a = {acc};
    int8_t x[4];
    memcpy(x, &four, 4);
#if defined(__AVXVNNI__)
    __m256i broadcast = _mm256_set1_epi32(four);
    for (int half = 0; half < 2; half++) {
        __m256i part = _mm256_loadu_si256((const __m256i *)(w.bytes + 32 * half));
        __m256i *into = (__m256i *)(a.lanes + 8 * half);
        _mm256_storeu_si256(into, _mm256_dpbusd_avx_epi32(_mm256_loadu_si256(into), part, broadcast));
    }
#elif defined(__AVX2__)
    __m256i wide = _mm256_cvtepi8_epi16(_mm_set1_epi32(four));
    for (int quarter = 0; quarter < 4; quarter++) {
        __m128i part = _mm_loadu_si128((const __m128i *)(w.bytes + 16 * quarter));
        __m256i pairs = _mm256_madd_epi16(_mm256_cvtepu8_epi16(part), wide);
        __m128i low = _mm256_castsi256_si128(pairs), high = _mm256_extracti128_si256(pairs, 1);
        __m128i *into = (__m128i *)(a.lanes + 4 * quarter);
        _mm_storeu_si128(into, _mm_add_epi32(_mm_loadu_si128(into), _mm_hadd_epi32(low, high)));
    }
#else
    for (int i = 0; i < LANES; i++)
        for (int k = 0; k < 4; k++) a.lanes[i] += (int32_t)w.bytes[4 * i + k] * x[k];
#endif
    (void)x;
    return a.whole;
#endif
}

#endif
