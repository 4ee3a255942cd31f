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
#if defined(__AVX512F__) && __GNUC__ > 7
#pragma GCC target("prefer-vector-width=512")
#endif
#endif
/* Products of so many pairs of bits are counted here; of more, bytes are multiplied. */
#if defined(__AMX_INT8__) && defined(__linux__)
#define PAIRS_COUNTED 0
#elif defined(__AVX512VPOPCNTDQ__)
#define PAIRS_COUNTED 2
#elif defined(__SSSE3__)
#define PAIRS_COUNTED 0
#else
#define PAIRS_COUNTED 4
#endif
#if defined(__AVX512VPOPCNTDQ__) || defined(__ARM_NEON)
#define COUNT(word) __builtin_popcount(word)
#elif PAIRS_COUNTED
static inline int COUNT(uint32_t word) /* which compilers do for many words at once */
{
    word -= (word >> 1) & 0x55555555u;
    word = (word & 0x33333333u) + ((word >> 2) & 0x33333333u);
    word = (word + (word >> 4)) & 0x0f0f0f0fu;
    word += word >> 8;
    return (int)((word + (word >> 16)) & 63);
}
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
