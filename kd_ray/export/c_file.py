"""The C file of an exported student around its steps, and its header."""

HEADER = """\
/* A student exported by kd-ray; sha256 of its weights: $student */
#ifndef STUDENT_H
#define STUDENT_H
#include <stdint.h>

#define STUDENT_CHANNELS $channels
#define STUDENT_HEIGHT $height
#define STUDENT_WIDTH $width
#define STUDENT_CLASSES $classes

/* Pixels are C x H x W bytes, channel by channel and row by row, as they are in a picture.
   Threads may call these at the same time: each has memory of its own. */
extern const char *const student_class_names[STUDENT_CLASSES];
void student_logits(const uint8_t *pixels, float *logits);
int student_classify(const uint8_t *pixels);
#endif
"""

SOURCE = """\
/* A student exported by kd-ray; sha256 of its weights: $student
   cc -std=c11 -O3 -march=native -c student.c */
#include "student.h"
#include <math.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "this student is for machines whose bytes are in little-endian order"
#endif
/* A product and a sum are rounded one by one, so that every machine has the same codes. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("-ffp-contract=off")
#if defined(__AVX512F__)
#pragma GCC target("prefer-vector-width=512")
#endif
#endif
#if defined(__GNUC__)
#define COUNT(word) __builtin_popcountll(word)
#else
static int COUNT(uint64_t word)
{
    word -= (word >> 1) & 0x5555555555555555u;
    word = (word & 0x3333333333333333u) + ((word >> 2) & 0x3333333333333333u);
    word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (int)((word * 0x0101010101010101u) >> 56);
}
#endif
/* Products of so many pairs of bits are counted here; of more, bytes are multiplied. */
#if defined(__AVX512VPOPCNTDQ__)
#define PAIRS_COUNTED 2
#elif defined(__AVX2__)
#define PAIRS_COUNTED 0
#else
#define PAIRS_COUNTED 4
#endif
/* For sums whose order does not matter. */
#if defined(FP_FAST_FMAF)
#define MULTIPLY_ADD(x, w, sum) fmaf(x, w, sum)
#else
#define MULTIPLY_ADD(x, w, sum) ((x) * (w) + (sum))
#endif
$machine
const char *const student_class_names[STUDENT_CLASSES] = {$names};

$arrays

$memory

void student_logits(const uint8_t *pixels, float *logits)
{
$steps
    memcpy(logits, $last, STUDENT_CLASSES * sizeof *logits);
}

int student_classify(const uint8_t *pixels)
{
    float logits[STUDENT_CLASSES];
    int best = 0;
    student_logits(pixels, logits);
    for (int k = 1; k < STUDENT_CLASSES; ++k)
        if (logits[k] > logits[best])
            best = k;
    return best;
}
"""

MACHINE = """\
/* Sums of LANES channels, to which four bytes of a window, times their weights, are added; PIXELS
   times VECTORS of them are held at once. Sums fit into 16 bits. */
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
#else
enum { LANES = 8, PIXELS = 1, VECTORS = 1 };
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
"""What differs between machines; a student without products of bytes has none of it."""
