"""The C of an exported student, a block for each kind of step.

`$name` stands for a number or an array; every loop has constant bounds, so that compilers unroll
and vectorize it.
"""

TYPES = {"float": "float", "codes": "uint8_t", "sums": "int32_t"}
"""Form of a value -> its type in C."""

PIXELS = """\
    { /* pixels, channels last */
        float *out = $out;
        for (int p = 0; p < $pixels; ++p)
            for (int c = 0; c < $channels; ++c)
                out[p * $channels + c] =
                    (float)pixels[c * $pixels + p] * scale_$n[c] + offset_$n[c];
    }"""

PIXEL_CODES = """\
    { /* pixels as codes, channels last */
        uint8_t *out = $out;
        for (int p = 0; p < $pixels; ++p)
            for (int c = 0; c < $channels; ++c)
                out[p * $channels + c] = codes_$n[c * 256 + pixels[c * $pixels + p]];
    }"""

PADDED = """\
        for (int y = 0; y < $in_height; ++y)
            for (int i = 0; i < $in_width * $in_channels; ++i)
                padded[((y + $padding_0) * $padded_width + $padding_1) * $in_channels + i] =
                    in[y * $in_width * $in_channels + i]"""

GATHERED = """\
                    for (int y = 0; y < $kernel_0; ++y)
                        for (int x = 0; x < $kernel_1; ++x)
                            memcpy(window + (y * $kernel_1 + x) * $group_in,
                                   padded + ((row * $stride_0 + y * $dilation_0) * $padded_width
                                             + column * $stride_1 + x * $dilation_1) * $in_channels
                                       + g * $group_in,
                                   $group_in * sizeof *window);"""

FLOAT_PRODUCT = f"""\
    {{ /* $name */
        const $in_type *in = $in0;
        float *out = $out, *padded = scratch_float, window[$taps];
        memset(padded, 0, $padded_height * $padded_width * $in_channels * sizeof *padded);
{PADDED};
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

INTEGER_PRODUCT = f"""\
    {{ /* $name */
        const uint8_t *in = $in0;
        int32_t *out = $out;
        int16_t *padded = scratch_int16_t, window[$taps];
        memset(padded, 0, $padded_height * $padded_width * $in_channels * sizeof *padded);
{PADDED} - $zero;
        for (int g = 0; g < $groups; ++g)
            for (int row = 0; row < $height; ++row)
                for (int column = 0; column < $width; ++column) {{
{GATHERED}
                    for (int o = g * $group_out; o < (g + 1) * $group_out; ++o) {{
                        int32_t sum = 0;
                        for (int i = 0; i < $taps; ++i)
                            sum += window[i] * weights_$n[o * $taps + i];
                        out[(row * $width + column) * $channels + o] = sum;
                    }}
                }}
    }}"""

COUNTED_PRODUCT = """\
    { /* $name: W $bits, A $places */
        const uint8_t *in = $in0;
        int32_t *out = $out;
        enum { PLANE = $padded_height * $padded_width * $packed };
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
                uint64_t window[$places][$words] = {{0}};
                int32_t all = 0;
                for (int b = 0; b < $places; ++b) {
                    for (int y = 0; y < $kernel_0; ++y)
                        for (int x = 0; x < $kernel_1; ++x)
                            memcpy((uint8_t *)window[b] + (y * $kernel_1 + x) * $packed,
                                   planes + b * PLANE
                                       + ((row * $stride_0 + y * $dilation_0) * $padded_width
                                          + column * $stride_1 + x * $dilation_1) * $packed,
                                   $packed);
                    for (int i = 0; i < $words; ++i)
                        all += COUNT(window[b][i]) << b;
                }
                for (int o = 0; o < $channels; ++o) {
                    const uint64_t *own = planes_$n + o * $bits * $words;
                    int32_t sum = 0;
                    for (int b = 0; b < $places; ++b)
                        for (int k = 0; k < $bits; ++k) {
                            int32_t common = 0;
                            for (int i = 0; i < $words; ++i)
                                common += COUNT(window[b][i] & own[k * $words + i]);
                            sum += common << (b + k);
                        }
                    out[(row * $width + column) * $channels + o] =
                        $factor * sum + $shift * all - zeros_$n[o];
                }
            }
    }"""

CODES = """\
    { /* codes for $name */
        const $in_type *in = $in0;
        uint8_t *out = $out;
        for (int p = 0; p < $pixels; ++p)
            for (int o = 0; o < $channels; ++o) {
                const $in_type value = in[p * $channels + o] $turn;
                int code = 0;
"""
CODED = """\
                out[p * $channels + o] = (uint8_t)code;
            }
    }"""

THRESHOLD = f"""\
{CODES}\
                for (int j = 0; j < $levels; ++j)
                    code += value >= thresholds_$n[(j * $channels + o) * $every + j * (1 - $every)];
{CODED}"""

SEARCHED_THRESHOLD = f"""\
{CODES}\
                for (int half = 1 << ($bits - 1); half; half >>= 1)
                    if (value >= thresholds_$n[o * $levels * $every + code + half - 1])
                        code += half;
{CODED}"""

AFFINE = """\
    { /* $name, scaled */
        const $in_type *in = $in0;
        float *out = $out;
        for (int p = 0; p < $pixels; ++p)
            for (int o = 0; o < $channels; ++o)
                out[p * $channels + o] =
                    (float)in[p * $channels + o] * scale_$n[o] + bias_$n[o];
    }"""

LEVEL = """\
    { /* $name as floats */
        const uint8_t *in = $in0;
        float *out = $out;
        for (int i = 0; i < $size; ++i)
            out[i] = (float)in[i] * $step + $low;
    }"""

MAX_POOL = """\
    { /* $name */
        const $type *in = $in0;
        $type *out = $out;
        for (int row = 0; row < $height; ++row)
            for (int column = 0; column < $width; ++column) {
                $type *to = out + (row * $width + column) * $channels;
                for (int c = 0; c < $channels; ++c)
                    to[c] = $lowest;
                for (int y = 0; y < $kernel_0; ++y)
                    for (int x = 0; x < $kernel_1; ++x) {
                        const int at = row * $stride_0 + y - $padding_0;
                        const int beside = column * $stride_1 + x - $padding_1;
                        const $type *from = in + (at * $in_width + beside) * $channels;
                        if (at < 0 || at >= $in_height || beside < 0 || beside >= $in_width)
                            continue;
                        for (int c = 0; c < $channels; ++c)
                            to[c] = from[c] > to[c] ? from[c] : to[c];
                    }
            }
    }"""

MEAN_POOL = """\
    { /* $name */
        const float *in = $in0;
        float *out = $out;
        for (int c = 0; c < $channels; ++c) {
            double sum = 0;
            for (int p = 0; p < $in_pixels; ++p)
                sum += in[p * $channels + c];
            out[c] = (float)(sum / $in_pixels);
        }
    }"""

RELU = """\
    { /* $name */
        const float *in = $in0;
        float *out = $out;
        for (int i = 0; i < $size; ++i)
            out[i] = in[i] > 0 ? in[i] : 0;
    }"""

ADD = """\
    { /* $name */
        const float *one = $in0, *other = $in1;
        float *out = $out;
        for (int i = 0; i < $size; ++i)
            out[i] = one[i] + other[i];
    }"""

FLATTEN = """\
    { /* $name: channel by channel */
        const $type *in = $in0;
        $type *out = $out;
        for (int c = 0; c < $in_channels; ++c)
            for (int p = 0; p < $in_pixels; ++p)
                out[c * $in_pixels + p] = in[p * $in_channels + c];
    }"""

SHORTCUT = """\
    { /* $name */
        const float *in = $in0;
        float *out = $out;
        for (int y = 0; y < $height; ++y)
            for (int x = 0; x < $width; ++x)
                for (int c = 0; c < $channels; ++c)
                    out[(y * $width + x) * $channels + c] = c < $kept
                        ? in[(y * $rows * $in_width + x * $columns) * $kept + c] : 0;
    }"""

BLOCKS = {
    "pixels": PIXELS,
    "pixel_codes": PIXEL_CODES,
    "float_product": FLOAT_PRODUCT,
    "integer_product": INTEGER_PRODUCT,
    "counted_product": COUNTED_PRODUCT,
    "threshold": THRESHOLD,
    "searched_threshold": SEARCHED_THRESHOLD,
    "affine": AFFINE,
    "level": LEVEL,
    "max_pool": MAX_POOL,
    "mean_pool": MEAN_POOL,
    "relu": RELU,
    "add": ADD,
    "flatten": FLATTEN,
    "shortcut": SHORTCUT,
}
"""Name of a block -> its C."""
