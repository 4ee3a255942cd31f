"""What differs between machines in the C of a student: a few lines for those that are known."""

from kd_ray.export.c_tiles import TILES

BYTES = """\
/* Sums of LANES channels, to which four bytes of a window, times their weights, are added; PIXELS
   times VECTORS of them are held at once. They fit into 16 bits. */
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
#include <immintrin.h>
enum { LANES = 16, PIXELS = 8, VECTORS = 2 };
typedef __m512i Sums;
static inline Sums no_sums(void) { return _mm512_setzero_si512(); }
static inline Sums with_four(Sums sums, const uint8_t *four, const int8_t *weights)
{
    int32_t x;
    memcpy(&x, four, sizeof x);
#if defined(__GNUC__) /* whose compilers copy sums for the intrinsic */
    __asm__("vpdpbusd %2, %1, %0"
            : "+v"(sums)
            : "v"(_mm512_set1_epi32(x)), "v"(_mm512_loadu_si512(weights)));
    return sums;
#else
    return _mm512_dpbusd_epi32(sums, _mm512_set1_epi32(x), _mm512_loadu_si512(weights));
#endif
}
static inline void put_sums(int32_t *to, Sums sums) { _mm512_storeu_si512(to, sums); }
#elif defined(__AVX2__)
#include <immintrin.h>
enum { LANES = 8, PIXELS = 4, VECTORS = 1 };
typedef __m256i Sums;
static inline Sums no_sums(void) { return _mm256_setzero_si256(); }
static inline Sums with_four(Sums sums, const uint8_t *four, const int8_t *weights)
{
    int32_t x;
    memcpy(&x, four, sizeof x);
    return _mm256_add_epi16(
        sums, _mm256_maddubs_epi16(_mm256_set1_epi32(x),
                                   _mm256_loadu_si256((const __m256i *)(const void *)weights)));
}
static inline void put_sums(int32_t *to, Sums sums)
{
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_madd_epi16(sums, _mm256_set1_epi16(1)));
}
#elif defined(__SSSE3__)
#include <tmmintrin.h>
enum { LANES = 4, PIXELS = 4, VECTORS = 1 };
typedef __m128i Sums;
static inline Sums no_sums(void) { return _mm_setzero_si128(); }
static inline Sums with_four(Sums sums, const uint8_t *four, const int8_t *weights)
{
    int32_t x;
    memcpy(&x, four, sizeof x);
    return _mm_add_epi16(
        sums, _mm_maddubs_epi16(_mm_set1_epi32(x),
                                _mm_loadu_si128((const __m128i *)(const void *)weights)));
}
static inline void put_sums(int32_t *to, Sums sums)
{
    _mm_storeu_si128((__m128i *)(void *)to, _mm_madd_epi16(sums, _mm_set1_epi16(1)));
}
#else
enum { LANES = 4, PIXELS = 1, VECTORS = 1 };
typedef struct { int32_t of[LANES]; } Sums;
static inline Sums no_sums(void)
{
    const Sums none = {{0}};
    return none;
}
static inline Sums with_four(Sums sums, const uint8_t *four, const int8_t *weights)
{
    for (int o = 0; o < LANES; ++o)
        for (int i = 0; i < 4; ++i)
            sums.of[o] += four[i] * weights[4 * o + i];
    return sums;
}
static inline void put_sums(int32_t *to, Sums sums) { memcpy(to, sums.of, sizeof sums.of); }
#endif
"""
"""Sums of bytes."""

FLOATS = """\
/* Sums of FLOATS channels, to which a number of a window, times their weights, is added. Their
   order does not matter, nor that a product may not be rounded. */
#if defined(__AVX512F__)
#include <immintrin.h>
enum { FLOATS = 16 };
typedef __m512 FloatSums;
static inline FloatSums no_floats(void) { return _mm512_setzero_ps(); }
static inline FloatSums with_tap(FloatSums sums, float x, const float *weights)
{
    return _mm512_fmadd_ps(_mm512_set1_ps(x), _mm512_loadu_ps(weights), sums);
}
static inline void put_floats(float *to, FloatSums sums) { _mm512_storeu_ps(to, sums); }
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
enum { FLOATS = 8 };
typedef __m256 FloatSums;
static inline FloatSums no_floats(void) { return _mm256_setzero_ps(); }
static inline FloatSums with_tap(FloatSums sums, float x, const float *weights)
{
    return _mm256_fmadd_ps(_mm256_set1_ps(x), _mm256_loadu_ps(weights), sums);
}
static inline void put_floats(float *to, FloatSums sums) { _mm256_storeu_ps(to, sums); }
#else
enum { FLOATS = 4 };
typedef struct { float of[FLOATS]; } FloatSums;
static inline FloatSums no_floats(void)
{
    const FloatSums none = {{0}};
    return none;
}
static inline FloatSums with_tap(FloatSums sums, float x, const float *weights)
{
    for (int o = 0; o < FLOATS; ++o)
        sums.of[o] += x * weights[o];
    return sums;
}
static inline void put_floats(float *to, FloatSums sums) { memcpy(to, sums.of, sizeof sums.of); }
#endif
"""
"""Sums of floats."""

MACHINES = {"with_four": BYTES, "with_tap": FLOATS, "has_tiles": TILES}
"""A function that a student may call -> the lines that it takes."""
