"""The C of an exported student, a block for each kind of step but the products.

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
