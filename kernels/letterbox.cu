// A 4:2:0 surface, resized and upright, as one (3, height, width) slot of a model's input.
//
// Each plane is resampled on its own grid by integer weights, made by vidai.ops.letterbox,
// that sum to 2048 on each axis: first down the columns, rounded to 13 bits, then across,
// in floats that hold the 24 bits of these sums exactly. So the order of a sum is free, and
// the two forms below agree bit for bit; rounding floats begin with the colour matrix, in one
// order of operations. Reads each sample once (on the host), writes 3 values a model pixel.
#include "grid.h"

// How the outputs of one axis are made: output i is the sum over k < taps of
// weights[k * outputs + i] * sample[first[i] + k]; both tables lie in the plan's memory,
// at these offsets in int32. Weights down are int32, weights across are float.
struct Axis {
  int32_t outputs, taps, first, weights;
};

// Everything that frames of one geometry share; vidai.ops.letterbox writes the same fields.
// Axes are stored ones and already run backwards where the display flips them.
struct Plan {
  int32_t height, width;              // of the slot
  int32_t top, left, rows, columns;   // of the picture in the slot
  int32_t stored_width;               // of the luma plane
  int32_t transposed;                 // picture rows run along stored columns
  int32_t wide, shift, c_step, half;  // see vidai.types.Surface; half: the slot is float16
  int32_t red, blue;                  // channels of the slot; green is 1
  int32_t excess;                     // bits to round off a sum down a column
  float black, neutral;               // luma of black and chroma of grey, as sums
  float luma, v_red, u_green, v_green, u_blue;
  float gain[3], bias[3], pad[3];     // of red, green and blue: pixel * gain + bias; pad is final
  Axis luma_x, luma_y, chroma_x, chroma_y;
};

// Round to nearest, ties to even, as cvt.rn.f16.f32 does; NaN becomes 0x7e00.
FN uint16_t float_to_half(float value) {
  uint32_t bits = float_bits(value);
  uint32_t sign = bits >> 16 & 0x8000u;
  uint32_t magnitude = bits & 0x7fffffffu;
  // 0.5 has the spacing of half's subnormals, so the addition rounds to them.
  uint32_t small = float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  uint32_t half = magnitude < 0x38800000u ? small : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return (uint16_t)(sign | half);
}

FN void put(float *out, float value) { *out = value; }
FN void put(uint16_t *out, float value) { *out = float_to_half(value); }

// A sum of 2048 * sample, rounded to 13 bits: as a float it leaves room for 11 bits of weights.
FN float round_off(uint32_t sum, int excess) {
  return (float)(int32_t)((sum + (1u << (excess - 1))) >> excess);
}

// In the two forms that a processor has instructions for; F is float or a vector of them.
template <typename F>
FN void to_byte_range(F &v) {
  const F low = {}, high = low + 255.0f;
  v = v > low ? v : low;
  v = v < high ? v : high;
}

// Red, green and blue from sums of 2048 * 2048 * sample.
template <typename F>
FN void to_colors(const Plan &p, const F &y, const F &u, const F &v, F colors[3]) {
  F luma = (y - p.black) * p.luma, cb = u - p.neutral, cr = v - p.neutral;
  colors[0] = luma + cr * p.v_red;
  colors[1] = (luma + cb * p.u_green) + cr * p.v_green;
  colors[2] = luma + cb * p.u_blue;
  for (int c = 0; c < 3; c++) {
    to_byte_range(colors[c]);
    colors[c] = colors[c] * p.gain[c] + p.bias[c];
  }
}

#if defined(__CUDACC__) || defined(VIDAI_DEVICE_FORM)

FN float resample(const Plan &p, const Axis &ax, const Axis &ay, int x, int y,
                  const uint8_t *plane, int64_t pitch, int step) {
  const int32_t *tables = (const int32_t *)&p;
  const float *weights_x = (const float *)(tables + ax.weights) + x;
  const int32_t *weights_y = tables + ay.weights + y;
  int left = tables[ax.first + x], top = tables[ay.first + y];
  float sum = 0;
  for (int kx = 0; kx < ax.taps; kx++) {
    uint32_t column = 0;
    for (int ky = 0; ky < ay.taps; ky++) {
      int sample = load_sample(plane, pitch, step, p.wide, p.shift, top + ky, left + kx);
      column += (uint32_t)(weights_y[ky * ay.outputs] * sample);
    }
    sum += weights_x[kx * ax.outputs] * round_off(column, p.excess);
  }
  return sum;
}

template <typename T>
FN void letterbox_pixel(T *slot, const Plan &p, int row, int column, const uint8_t *y,
                        const uint8_t *u, const uint8_t *v, int y_pitch, int c_pitch) {
  float colors[3] = {p.pad[0], p.pad[1], p.pad[2]};
  int py = row - p.top, px = column - p.left;
  if (py >= 0 && py < p.rows && px >= 0 && px < p.columns) {
    int sx = p.transposed ? py : px, sy = p.transposed ? px : py;
    to_colors(p, resample(p, p.luma_x, p.luma_y, sx, sy, y, y_pitch, 1),
                resample(p, p.chroma_x, p.chroma_y, sx, sy, u, c_pitch, p.c_step),
                resample(p, p.chroma_x, p.chroma_y, sx, sy, v, c_pitch, p.c_step), colors);
  }
  slot += (int64_t)row * p.width + column;
  const int64_t channel = (int64_t)p.height * p.width;
  put(slot + p.red * channel, colors[0]);
  put(slot + channel, colors[1]);
  put(slot + p.blue * channel, colors[2]);
}

KERNEL(letterbox)(const uint8_t *y, const uint8_t *u, const uint8_t *v, int y_pitch, int c_pitch,
                  void *batch, int slot, const Plan *plan) {
  const Plan &p = *plan;
  const int64_t at = (int64_t)slot * 3 * p.height * p.width;
  FOR_PIXELS(n, row, column, 1, p.height, p.width) {
    if (p.half)
      letterbox_pixel((uint16_t *)batch + at, p, row, column, y, u, v, y_pitch, c_pitch);
    else
      letterbox_pixel((float *)batch + at, p, row, column, y, u, v, y_pitch, c_pitch);
  }
}

#else

// The host's own traversal: a thread for each pixel suits a GPU, a processor's vectors want
// long loops over neighbours. LANES rows of the picture are made together: the planes' rows
// are blended for each, then interleaved, so that sampling across takes LANES neighbours at
// once. The same integers are summed as above, hence the same result.
#include <algorithm>
#include <vector>

enum { LANES = 8, BLOCK = 16 };  // rows and columns made at once; a block's row is a cache line
typedef uint16_t Column __attribute__((vector_size(16)));  // LANES neighbours in a column
typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef float Four __attribute__((vector_size(16)));

// The first, or second, halves of two vectors in turns.
#ifdef __clang__
#define SHUFFLE(mask_type, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t FourIndices __attribute__((vector_size(16)));
#define SHUFFLE(mask_type, a, b, ...) __builtin_shuffle(a, b, (mask_type){__VA_ARGS__})
#endif
FN Column low(Column a, Column b) { return SHUFFLE(Column, a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
FN Column high(Column a, Column b) { return SHUFFLE(Column, a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
FN Four low(Four a, Four b) { return SHUFFLE(FourIndices, a, b, 0, 4, 1, 5); }
FN Four high(Four a, Four b) { return SHUFFLE(FourIndices, a, b, 2, 6, 3, 7); }

// A square of vectors, mirrored in its diagonal.
template <typename V, int N>
FN void transpose(V (&rows)[N]) {
  for (int size = 1; size < N; size *= 2) {
    V from[N];
    memcpy(from, rows, sizeof from);
    for (int i = 0; i < N / 2; i++) {
      rows[2 * i] = low(from[i], from[i + N / 2]);
      rows[2 * i + 1] = high(from[i], from[i + N / 2]);
    }
  }
}

FN uint16_t sample(uint8_t stored, int) { return stored; }
FN uint16_t sample(uint16_t stored, int shift) { return (uint16_t)(stored >> shift); }

// Adds TAPS weighted rows to a blended one, which begins with the `first` ones and after the
// `last` is round_off(sum). A sum has up to 21 bits, but vectors are fastest at 16: its upper
// bits, of which 13 will count, collect in `out`, the others in `rest`.
template <int TAPS, typename S>
static void add_rows(uint16_t *__restrict out, uint16_t *__restrict rest, bool first, bool last,
                     int width, const uint8_t *top, int pitch, int shift, int excess,
                     const int32_t *weights, int stride) {
  const int bits = sizeof(S) > 1 ? 5 : 3, drop = sizeof(S) > 1 ? excess - bits : 3;
  const S *rows[TAPS];
  uint16_t high[TAPS], low[TAPS];
  for (int k = 0; k < TAPS; k++) {
    rows[k] = (const S *)(top + (int64_t)k * pitch);
    high[k] = (uint16_t)(weights[k * stride] >> bits);
    low[k] = (uint16_t)(weights[k * stride] & ((1 << bits) - 1));
  }
  for (int x = 0; x < width; x++) {
    uint16_t upper = first ? (uint16_t)(1 << drop >> 1) : out[x], lower = first ? 0 : rest[x];
    for (int k = 0; k < TAPS; k++) {
      uint16_t value = sample(rows[k][x], shift);
      upper = (uint16_t)(upper + high[k] * value);
      lower = (uint16_t)(lower + low[k] * value);
      if (sizeof(S) > 1 || k == TAPS - 1) {  // there is room for one product, of bytes for four
        upper = (uint16_t)(upper + (lower >> bits));
        lower &= (1 << bits) - 1;
      }
    }
    out[x] = last ? (uint16_t)(upper >> drop) : upper;
    if (!last) rest[x] = lower;
  }
}

// LANES rows of neighbouring samples, each blended for one of the outputs i, i + 1, …, and after
// them room for a row.
template <typename S>
static void blend_rows(uint16_t *out, int width, int room, const uint8_t *plane,
                       int pitch, const Plan &p, const Axis &axis, int i) {
  const int32_t *tables = (const int32_t *)&p;
  uint16_t *rest = out + LANES * room;
  for (int r = 0; r < LANES; r++, out += room) {
    int output = min_int(i + r, axis.outputs - 1);
    const uint8_t *top = plane + (int64_t)tables[axis.first + output] * pitch;
    const int32_t *weights = tables + axis.weights + output;
    for (int k = 0; k < axis.taps; k += 4, top += 4 * (int64_t)pitch, weights += 4 * axis.outputs) {
      auto add = axis.taps - k == 1   ? add_rows<1, S>
                 : axis.taps - k == 2 ? add_rows<2, S>
                 : axis.taps - k == 3 ? add_rows<3, S>
                                      : add_rows<4, S>;
      add(out, rest, k == 0, k + 4 >= axis.taps, width, top, pitch, p.shift, p.excess, weights,
          axis.outputs);
    }
  }
}

// LANES rows side by side. Of two PLANES in one every second column is the second's.
template <int PLANES>
static void interleave(Column *first, Column *second, const uint16_t *rows, int room) {
  for (int x = 0; x < room; x += LANES) {
    Column square[LANES];
    for (int r = 0; r < LANES; r++) memcpy(&square[r], rows + r * room + x, sizeof square[r]);
    transpose(square);
    for (int k = 0; k < LANES; k++) {
      Column *columns = k % PLANES ? second : first;  // in one line g++ 12 -fsanitize=shift errs
      columns[(x + k) / PLANES] = square[k];
    }
  }
}

// Outputs begin, begin + 1, … of an axis across, of LANES rows. TAPS is 0 if not known here.
template <int TAPS>
static void sample_across(Lanes *__restrict out, const Column *columns, const int32_t *tables,
                          const Axis &axis, int begin, int count) {
  const int32_t *first = tables + axis.first + begin;
  const float *weights = (const float *)(tables + axis.weights) + begin;
  const int taps = TAPS ? TAPS : axis.taps, outputs = axis.outputs;
  for (int x = 0; x < count; x++) {
    const Column *from = columns + first[x];
    Lanes sum = {};
    for (int k = 0; k < taps; k++) {
      const uint16_t *column = (const uint16_t *)&from[k];
      Lanes values;
      for (int r = 0; r < LANES; r++) values[r] = (float)(int32_t)column[r];
      sum += weights[k * outputs + x] * values;
    }
    out[x] = sum;
  }
}

static auto sampler(const Axis &axis) {
  return axis.taps == 2   ? sample_across<2>
         : axis.taps == 3 ? sample_across<3>
         : axis.taps == 4 ? sample_across<4>
                          : sample_across<0>;
}

// One channel of a block, which `columns` hold, to `height` rows of the slot, `width` of each.
template <typename T>
static void put_block(T *out, int64_t along, int64_t down, const Lanes *columns, int width,
                      int height) {
  float rows[LANES][BLOCK];
  const float *values = (const float *)columns;
  for (int x = 0; x < BLOCK; x += 4)
    for (int r = 0; r < LANES; r += 4) {
      Four square[4];
      for (int k = 0; k < 4; k++) memcpy(&square[k], values + (x + k) * LANES + r, 16);
      transpose(square);
      for (int k = 0; k < 4; k++) memcpy(&rows[r + k][x], &square[k], 16);
    }
  for (int r = 0; r < height; r++, out += down) {
    __builtin_prefetch(out + LANES * down, 1, 2);
    if (along == 1 && width == BLOCK)
      for (int x = 0; x < BLOCK; x++) put(out + x, rows[r][x]);
    else
      for (int x = 0; x < width; x++) put(out + x * along, rows[r][x]);
  }
}

template <typename T>
static void put_padding(T *out, const Plan &p, float value) {
  T pad;
  put(&pad, value);
  for (int row = 0; row < p.height; row++, out += p.width) {
    bool inside = row >= p.top && row < p.top + p.rows;
    std::fill(out, out + (inside ? p.left : p.width), pad);
    if (inside) std::fill(out + p.left + p.columns, out + p.width, pad);
  }
}

// Memory is slow to begin: this asks, block by block, for what the next LANES rows will read.
struct Ahead {
  const uint8_t *from;
  int64_t bytes;

  Ahead(const uint8_t *plane, int pitch, const int32_t *tables, const Axis &axis, int i) {
    int last = axis.outputs - 1;
    int a = tables[axis.first + min_int(i + LANES, last)];
    int b = tables[axis.first + min_int(i + 2 * LANES - 1, last)];
    from = plane + (int64_t)min_int(a, b) * pitch;
    bytes = (int64_t)(max_int(a, b) - min_int(a, b) + axis.taps) * pitch;
  }

  void fetch(int x, int outputs) const {
    int64_t end = bytes * min_int(x + BLOCK, outputs) / outputs;
    for (int64_t k = bytes * x / outputs; k < end; k += 64) __builtin_prefetch(from + k, 0, 2);
  }
};

template <typename S, typename T>
static void letterbox_slot(const uint8_t *y, const uint8_t *u, const uint8_t *v, int y_pitch,
                           int c_pitch, T *out, const Plan &p) {
  const int32_t *tables = (const int32_t *)&p;
  const int64_t channel = (int64_t)p.height * p.width;
  const int64_t along = p.transposed ? p.width : 1, down = p.transposed ? 1 : p.width;
  const int outputs = p.luma_x.outputs, half = (p.stored_width + 1) / 2;
  const int room = (2 * half + LANES - 1) / LANES * LANES;
  const int half_room = (half + LANES - 1) / LANES * LANES;
  std::vector<uint16_t> memory((LANES + 1) * room);
  std::vector<Column> columns(room + 2 * half_room);
  uint16_t *rows = memory.data();
  Column *ys = columns.data(), *us = ys + room, *vs = us + half_room;
  auto luma = sampler(p.luma_x), chroma = sampler(p.chroma_x);
  T *channels[3] = {out + p.red * channel, out + channel, out + p.blue * channel};
  for (int c = 0; c < 3; c++) {
    put_padding(channels[c], p, p.pad[c]);
    channels[c] += (int64_t)p.top * p.width + p.left;
  }
  Lanes planes[3][BLOCK] = {}, colors[3][BLOCK];
  for (int i = 0; i < p.luma_y.outputs; i += LANES) {
    blend_rows<S>(rows, p.stored_width, room, y, y_pitch, p, p.luma_y, i);
    interleave<1>(ys, ys, rows, room);
    if (p.c_step == 1) {
      blend_rows<S>(rows, half, half_room, u, c_pitch, p, p.chroma_y, i);
      interleave<1>(us, us, rows, half_room);
      blend_rows<S>(rows, half, half_room, v, c_pitch, p, p.chroma_y, i);
      interleave<1>(vs, vs, rows, half_room);
    } else {
      blend_rows<S>(rows, 2 * half, room, u < v ? u : v, c_pitch, p, p.chroma_y, i);
      interleave<2>(u < v ? us : vs, u < v ? vs : us, rows, room);
    }
    const Ahead ahead[3] = {{y, y_pitch, tables, p.luma_y, i},
                            {u, c_pitch, tables, p.chroma_y, i},
                            {v, c_pitch, tables, p.chroma_y, i}};
    const int height = min_int(LANES, p.luma_y.outputs - i);
    for (int x = 0; x < outputs; x += BLOCK) {
      const int width = min_int(BLOCK, outputs - x);
      for (const Ahead &a : ahead) a.fetch(x, outputs);
      luma(planes[0], ys, tables, p.luma_x, x, width);
      chroma(planes[1], us, tables, p.chroma_x, x, width);
      chroma(planes[2], vs, tables, p.chroma_x, x, width);
      for (int k = 0; k < BLOCK; k++) {
        Lanes rgb[3];
        to_colors(p, planes[0][k], planes[1][k], planes[2][k], rgb);
        for (int c = 0; c < 3; c++) colors[c][k] = rgb[c];
      }
      for (int c = 0; c < 3; c++)
        put_block(channels[c] + i * down + x * along, along, down, colors[c], width, height);
    }
  }
}

KERNEL(letterbox)(const uint8_t *y, const uint8_t *u, const uint8_t *v, int y_pitch, int c_pitch,
                  void *batch, int slot, const Plan *plan) {
  const int64_t at = (int64_t)slot * 3 * plan->height * plan->width;
  if (plan->half) {
    uint16_t *out = (uint16_t *)batch + at;
    if (plan->wide) letterbox_slot<uint16_t>(y, u, v, y_pitch, c_pitch, out, *plan);
    else letterbox_slot<uint8_t>(y, u, v, y_pitch, c_pitch, out, *plan);
  } else {
    float *out = (float *)batch + at;
    if (plan->wide) letterbox_slot<uint16_t>(y, u, v, y_pitch, c_pitch, out, *plan);
    else letterbox_slot<uint8_t>(y, u, v, y_pitch, c_pitch, out, *plan);
  }
}

#endif
