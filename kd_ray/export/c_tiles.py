"""Products of bytes by tiles of 16 x 64 numbers, on x86 that has AMX and a Linux that allows it.

A tile takes 16 windows as they lie in the padded input, since neighbours lie at equal distances:
nothing is copied. Rows shorter than a tile are run over as one line, and the windows that lie
between them are left out of what is made.
"""

from collections.abc import Mapping

WINDOWS, FOURS = 16, 16
"""Of a tile: windows, and groups of four bytes of each."""
FEWEST = 8
"""Windows at equal distances from which tiles are worth their while."""

TILES = """\
#if defined(__AMX_INT8__) && defined(__linux__)
#include <immintrin.h>
#define TILES 1
extern long syscall(long number, ...);
/* Tiles 0 to 3 are sums, 4 and 5 windows, 6 and 7 weights; false where they may not be used. */
static inline int has_tiles(int fours)
{
    static _Thread_local int allowed;
    uint8_t shapes[64] = {1};
    if (!allowed)
        allowed = syscall(158 /* arch_prctl */, 0x1023 /* REQ_XCOMP_PERM */, 18) ? -1 : 1;
    if (allowed < 0)
        return 0;
    for (int tile = 0; tile < 8; ++tile) {
        shapes[16 + 2 * tile] = (uint8_t)(tile == 4 || tile == 5 ? 4 * fours : 64);
        shapes[48 + tile] = (uint8_t)(tile < 6 ? 16 : fours);
    }
    __asm__ volatile("" : : "r"(shapes) : "memory"); /* what tiles read is written by now */
    _tile_loadconfig(shapes);
    return 1;
}
#else
#define TILES 0
#endif
"""

TILED_PRODUCT = """\
#if TILES
        if (has_tiles($chunk)) {
            enum { NEXT = $stride_1 * $in_channels };
            for (int line = 0; line < $lines; ++line)
                for (int start = 0; start < $positions; start += 32) {
                    int32_t sums[32][$filled];
                    const int two = start + 16 < $positions;
                    const uint8_t *from = padded
                        + line * $stride_0 * $padded_width * $in_channels + start * NEXT;
                    for (int o = 0; o < $filled; o += 32) {
                        const int beside = o + 16 < $filled ? 16 : 0;
                        _tile_zero(0);
                        _tile_zero(1);
                        _tile_zero(2);
                        _tile_zero(3);
                        for (int y = 0; y < $kernel_0; ++y)
                            for (int i = 0; i < $fours; i += $chunk) {
                                const int8_t *own = weights_$n
                                    + ((y * $fours + i) * $filled + o) * 4;
                                const uint8_t *seen = from
                                    + y * $dilation_0 * $padded_width * $in_channels + 4 * i;
                                _tile_loadd(4, seen, NEXT);
                                _tile_loadd(6, own, $filled * 4);
                                _tile_dpbusd(0, 4, 6);
                                _tile_loadd(7, own + beside * 4, $filled * 4);
                                _tile_dpbusd(1, 4, 7);
                                if (!two)
                                    continue;
                                _tile_loadd(5, seen + 16 * NEXT, NEXT);
                                _tile_dpbusd(2, 5, 6);
                                _tile_dpbusd(3, 5, 7);
                            }
                        _tile_stored(1, sums[0] + o + beside, $filled * 4);
                        _tile_stored(0, sums[0] + o, $filled * 4);
                        _tile_stored(3, sums[16] + o + beside, $filled * 4);
                        _tile_stored(2, sums[16] + o, $filled * 4);
                    }
                    for (int p = 0; p < 32 && start + p < $positions; ++p) {
                        const int row = line + (start + p) / $across;
                        const int column = (start + p) % $across;
                        const int32_t *raw = sums[p];
                        $type *to = out + (row * $width + column) * $channels;
                        if (column >= $width)
                            continue;
$finish
                    }
                }
            _tile_release();
        } else
#endif
"""


def tiled(values: Mapping[str, int]) -> dict[str, int]:
    """What `TILED_PRODUCT` needs beside the values of its product; empty where lines are short.

    Windows are at equal distances in a row, or in all rows as one line if their stride is 1. Of
    the two, what takes fewer tiles is taken.

    Returns:
        `lines` of so many `positions` of windows, `across` from one row to the next; the bytes of
        the padded input that are `seen`.
    """
    padded, stride = (
        [values[f"{name}_{end}"] for end in ends]
        for name, ends in (("padded", ("height", "width")), ("stride", (0, 1)))
    )
    reach = [values[f"dilation_{n}"] * (values[f"kernel_{n}"] - 1) + 1 for n in (0, 1)]
    height, width = ((p - r) // s + 1 for p, r, s in zip(padded, reach, stride, strict=True))
    lines, positions, across = height, width, width
    whole = (height - 1) * padded[1] + width
    if stride == [1, 1] and -(-whole // WINDOWS) < height * -(-width // WINDOWS):
        lines, positions, across = 1, whole, padded[1]
    if positions < FEWEST:
        return {}
    last = (lines - 1) * stride[0] * padded[1] + (-(-positions // WINDOWS) * WINDOWS - 1) * stride[
        1
    ]
    seen = (last + (reach[0] - 1) * padded[1]) * values["in_channels"] + 4 * values["fours"]
    return {"lines": lines, "positions": positions, "across": across, "seen": seen}


def even_fours(fours: int) -> tuple[int, int]:
    """Groups of four bytes in a row of a window, filled up to equal tiles, and those of a tile.

    >>> even_fours(24), even_fours(25), even_fours(9)
    ((24, 12), (26, 13), (9, 9))
    """
    chunk = -(-fours // -(-fours // FOURS))
    return chunk * -(-fours // chunk), chunk
