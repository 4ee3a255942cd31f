"""The C of products: of floats, of integers, and of codes of few bits.

As in `c_text`, `$name` stands for a number or an array. A product of integers ends by `$finish`,
which makes of the sums of one pixel, `raw`, what is kept of them.
"""

PADDED = """\
        for (int y = 0; y < $in_height; ++y)
            for (int i = 0; i < $in_width * $in_channels; ++i)
                padded[((y + $padding_0) * $padded_width + $padding_1) * $in_channels + i] =
                    in[y * $in_width * $in_channels + i];"""

GATHERED = """\
                        for (int y = 0; y < $kernel_0; ++y)
                            for (int x = 0; x < $kernel_1; ++x)
                                memcpy(window + (y * $kernel_1 + x) * $group_in,
                                       padded + g * $group_in
                                           + ((row * $stride_0 + y * $dilation_0) * $padded_width
                                              + column * $stride_1 + x * $dilation_1)
                                               * $in_channels,
                                       $group_in * sizeof *window);"""

FLOAT_PRODUCT = f"""\
    {{ /* $name */
        const $in_type *in = $in0;
        float *out = $out, *padded = scratch_float, window[$taps];
        memset(padded, 0, $padded_height * $padded_width * $in_channels * sizeof *padded);
{PADDED}
        for (int g = 0; g < $groups; ++g)
            for (int row = 0; row < $height; ++row)
                for (int column = 0; column < $width; ++column) {{
                    double sums[$group_out] = {{0}};
{GATHERED}
                    for (int i = 0; i < $taps; ++i)
                        for (int o = 0; o < $group_out; ++o)
                            sums[o] += (double)window[i]
                                * (double)weights_$n[i * $channels + g * $group_out + o];
                    for (int o = 0; o < $group_out; ++o)
                        out[(row * $width + column) * $channels + g * $group_out + o] =
                            (float)sums[o];
                }}
    }}"""

FLOAT_CODES = f"""\
    {{ /* $name: sums of floats in any order; where a limit is near, again in double precision */
        enum {{
            WIDTH = $width * $pool_1,
            ROW = $width * $channels,
            AT_ONCE = WIDTH % 4 ? 1 : 4,
            HELD = 16 / FLOATS
        }};
        const float *in = $in0;
        float *padded = scratch_float, rows[$pool_0][WIDTH][$filled];
        float most[ROW], limits[$levels][ROW], bound[ROW];
        uint8_t *out = $out, near[ROW];
        for (int i = 0; i < ROW; i += $channels) {{
            for (int j = 0; j < $levels; ++j)
                memcpy(limits[j] + i, limits_$n + j * $channels, $channels * sizeof *most);
            memcpy(bound + i, bound_$n, sizeof bound_$n);
        }}
        memset(padded, 0, $padded_height * $padded_width * $in_channels * sizeof *padded);
{PADDED}
        for (int row = 0; row < $height; ++row) {{
            int any = 0;
            for (int down = 0; down < $pool_0; ++down)
                for (int column = 0; column < WIDTH; column += AT_ONCE)
                    for (int first = 0; first < $filled; first += 16) {{
                        const float *from = padded + ((row * $pool_0 + down) * $stride_0
                            * $padded_width + column * $stride_1) * $in_channels;
                        FloatSums held[AT_ONCE][HELD];
                        for (int p = 0; p < AT_ONCE; ++p)
                            for (int v = 0; v < HELD; ++v)
                                held[p][v] = no_floats();
                        for (int y = 0; y < $kernel_0; ++y)
                            for (int i = 0; i < $kernel_1 * $in_channels; ++i) {{
                                const float *own = weights_$n + first
                                    + (y * $kernel_1 * $in_channels + i) * $filled;
                                for (int p = 0; p < AT_ONCE; ++p)
                                    for (int v = 0; v < HELD; ++v)
                                        held[p][v] = with_tap(
                                            held[p][v],
                                            from[(y * $padded_width + p * $stride_1)
                                                 * $in_channels + i],
                                            own + v * FLOATS);
                            }}
                        for (int p = 0; p < AT_ONCE; ++p)
                            for (int v = 0; v < HELD; ++v)
                                put_floats(rows[down][column + p] + first + v * FLOATS,
                                           held[p][v]);
                    }}
            for (int column = 0; column < $width; ++column)
                for (int o = 0; o < $channels; ++o) {{
                    float sum = rows[0][column * $pool_1][o];
                    for (int down = 0; down < $pool_0; ++down)
                        for (int p = 0; p < $pool_1; ++p) {{
                            const float other = rows[down][column * $pool_1 + p][o];
                            sum = other > sum ? other : sum;
                        }}
                    most[column * $channels + o] = sum;
                }}
            for (int i = 0; i < ROW; ++i) {{
                int code = 0, is_near = 0;
                for (int j = 0; j < $levels; ++j) {{
                    code += most[i] >= limits[j][i];
                    is_near |= fabsf(most[i] - limits[j][i]) <= bound[i];
                }}
                any |= is_near;
                near[i] = (uint8_t)is_near;
                out[row * ROW + i] = (uint8_t)code;
            }}
            for (int i = 0; any && i < ROW; ++i) {{
                int code = 0;
                if (!near[i])
                    continue;
                for (int p = 0; p < $pool_0 * $pool_1; ++p) {{
                    const float *from = padded
                        + ((row * $pool_0 + p / $pool_1) * $stride_0 * $padded_width
                           + (i / $channels * $pool_1 + p % $pool_1) * $stride_1) * $in_channels;
                    double sum = 0;
                    int reached = 0;
                    for (int y = 0; y < $kernel_0; ++y)
                        for (int t = 0; t < $kernel_1 * $in_channels; ++t)
                            sum += (double)from[y * $padded_width * $in_channels + t]
                                * (double)weights_$n[(y * $kernel_1 * $in_channels + t) * $filled
                                                     + i % $channels];
                    for (int j = 0; j < $levels; ++j)
                        reached += (float)sum >= limits[j][i];
                    code = reached > code ? reached : code;
                }}
                out[row * ROW + i] = (uint8_t)code;
            }}
        }}
    }}"""

INTEGER_PRODUCT = f"""\
    {{ /* $name */
        const uint8_t *in = $in0;
        $type *out = $out;
        int16_t *padded = scratch_int16_t, window[$taps];
        for (int i = 0; i < $padded_height * $padded_width * $in_channels; ++i)
            padded[i] = $zero;
{PADDED}
        for (int row = 0; row < $height; ++row)
            for (int column = 0; column < $width; ++column) {{
                int32_t raw[$channels] = {{0}};
                $type *to = out + (row * $width + column) * $channels;
                for (int g = 0; g < $groups; ++g) {{
{GATHERED}
                    for (int o = g * $group_out; o < (g + 1) * $group_out; ++o)
                        for (int i = 0; i < $taps; ++i)
                            raw[o] += window[i] * weights_$n[o * $taps + i];
                }}
$finish
            }}
    }}"""

BYTE_PRODUCT = """\
    { /* $name: W $bits, A $places */
        enum {
            AT_ONCE = $width < PIXELS ? $width : PIXELS,
            WANTED = PIXELS / AT_ONCE < 2 ? VECTORS : 2 * VECTORS,
            HELD = $filled % (WANTED * LANES) ? 1 : WANTED
        };
        const uint8_t *in = $in0;
        $type *out = $out;
        uint8_t *padded = scratch_uint8_t;
        memset(padded, $zero, $padded_height * $padded_width * $in_channels);
        for (int y = 0; y < $in_height; ++y)
            memcpy(padded + ((y + $padding_0) * $padded_width + $padding_1) * $in_channels,
                   in + y * $in_width * $in_channels, $in_width * $in_channels);
$tiles
        for (int row = 0; row < $height; ++row)
            for (int start = 0; start < $width; start += AT_ONCE) {
                const int column = start < $width - AT_ONCE ? start : $width - AT_ONCE;
                const uint8_t *from = padded
                    + (row * $stride_0 * $padded_width + column * $stride_1) * $in_channels;
                int32_t sums[AT_ONCE][$filled];
                for (int o = 0; o < $filled; o += HELD * LANES) {
                    Sums held[AT_ONCE][HELD];
                    for (int p = 0; p < AT_ONCE; ++p)
                        for (int v = 0; v < HELD; ++v)
                            held[p][v] = no_sums();
                    for (int y = 0; y < $kernel_0; ++y)
                        for (int i = 0; i < $fours; ++i) {
                            const int8_t *own = weights_$n + ((y * $fours + i) * $filled + o) * 4;
                            for (int p = 0; p < AT_ONCE; ++p)
                                for (int v = 0; v < HELD; ++v)
                                    held[p][v] = with_four(
                                        held[p][v],
                                        from + (y * $dilation_0 * $padded_width + p * $stride_1)
                                                * $in_channels + 4 * i,
                                        own + v * LANES * 4);
                        }
                    for (int p = 0; p < AT_ONCE; ++p)
                        for (int v = 0; v < HELD; ++v)
                            put_sums(sums[p] + o + v * LANES, held[p][v]);
                }
                for (int p = 0; p < AT_ONCE; ++p) {
                    const int32_t *raw = sums[p];
                    $type *to = out + (row * $width + column + p) * $channels;
$finish
                }
            }
    }"""

COUNTED_PRODUCT = """\
    { /* $name: W $bits, A $places, counted */
        enum { PLANE = $padded_height * $padded_width * $packed };
        const uint8_t *in = $in0;
        $type *out = $out;
        uint8_t *planes = scratch_uint8_t;
        for (int b = 0; b < $places; ++b)
            memset(planes + b * PLANE, ($zero >> b) & 1 ? 255 : 0, PLANE);
        for (int y = 0; y < $in_height; ++y)
            for (int x = 0; x < $in_width; ++x) {
                const uint8_t *codes = in + (y * $in_width + x) * $in_channels;
                uint8_t *to = planes
                    + ((y + $padding_0) * $padded_width + x + $padding_1) * $packed;
                for (int i = 0; i < $packed; ++i) {
                    const int left = $in_channels - 8 * i < 8 ? $in_channels - 8 * i : 8;
                    uint64_t eight = 0;
                    memcpy(&eight, codes + 8 * i, (size_t)left);
                    for (int b = 0; b < $places; ++b)
                        to[b * PLANE + i] = (uint8_t)((((eight >> b) & 0x0101010101010101u)
                                                       * 0x0102040810204080u) >> 56);
                }
            }
        for (int row = 0; row < $height; ++row)
            for (int column = 0; column < $width; ++column) {
                uint32_t words[$places][$kernel_0 * $words];
                int32_t raw[$channels] = {0}, all = 0;
                $type *to = out + (row * $width + column) * $channels;
                for (int b = 0; b < $places; ++b)
                    for (int y = 0; y < $kernel_0; ++y) {
                        const uint8_t *from = planes + b * PLANE
                            + ((row * $stride_0 + y * $dilation_0) * $padded_width
                               + column * $stride_1) * $packed;
                        memcpy(words[b] + y * $words, from, $words * sizeof **words);
                        for (int i = 0; i < $doubles; ++i) { /* by other loads, as it is faster */
                            uint64_t both;
                            memcpy(&both, from + 8 * i, sizeof both);
                            both &= masks_$n[i];
                            all += (COUNT((uint32_t)both) + COUNT((uint32_t)(both >> 32))) << b;
                        }
                    }
                for (int shift = $places + $bits - 2; shift >= 0; --shift) {
                    for (int o = 0; o < $channels; ++o)
                        raw[o] *= 2;
                    for (int b = 0; b < $places; ++b) {
                        const int plane = shift - b;
                        if (plane < 0 || plane >= $bits)
                            continue;
                        for (int i = 0; i < $kernel_0 * $words; ++i)
                            for (int o = 0; o < $channels; ++o)
                                raw[o] += COUNT(words[b][i]
                                    & planes_$n[(plane * $kernel_0 * $words + i) * $channels + o]);
                    }
                }
                for (int o = 0; o < $channels; ++o)
                    raw[o] = $factor * raw[o] + $shift * all;
$finish
            }
    }"""

SMALL_PRODUCT = f"""\
#if PAIRS_COUNTED >= $pairs
{COUNTED_PRODUCT}
#else
{BYTE_PRODUCT}
#endif"""

ENDS = {
    "sums": """\
                for (int o = 0; o < $channels; ++o)
                    to[o] = raw[o] - zeros_$n[o];""",
    "codes": """\
                for (int o = 0; o < $channels; ++o) {
                    int code = 0;
                    for (int j = 0; j < $levels; ++j)
                        code += raw[o] >= limits_$n[j * $channels + o];
                    to[o] = (uint8_t)(code $flip);
                }""",
}
"""What a product of integers leaves: its sums, or codes of them."""

PRODUCTS = {
    "float_product": FLOAT_PRODUCT,
    "float_codes": FLOAT_CODES,
    "integer_product": INTEGER_PRODUCT,
    "byte_product": BYTE_PRODUCT,
    "small_product": SMALL_PRODUCT,
}
"""Name of a block -> its C."""
