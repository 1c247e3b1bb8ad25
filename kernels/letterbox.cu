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
  float gain[3], bias[3], pad[3];     // per channel: pixel * gain + bias; pad is final
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

// The three channels of one pixel from sums of 2048 * 2048 * sample.
FN void to_channels(const Plan &plan, float y, float u, float v, float channels[3]) {
  float luma = (y - plan.black) * plan.luma, cb = u - plan.neutral, cr = v - plan.neutral;
  float red = luma + cr * plan.v_red;
  float green = (luma + cb * plan.u_green) + cr * plan.v_green;
  float blue = luma + cb * plan.u_blue;
  float first = plan.red == 0 ? red : blue;
  float last = plan.red == 0 ? blue : red;
  channels[0] = clamp_float(first, 0.0f, 255.0f) * plan.gain[0] + plan.bias[0];
  channels[1] = clamp_float(green, 0.0f, 255.0f) * plan.gain[1] + plan.bias[1];
  channels[2] = clamp_float(last, 0.0f, 255.0f) * plan.gain[2] + plan.bias[2];
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
  float values[3] = {p.pad[0], p.pad[1], p.pad[2]};
  int py = row - p.top, px = column - p.left;
  if (py >= 0 && py < p.rows && px >= 0 && px < p.columns) {
    int sx = p.transposed ? py : px, sy = p.transposed ? px : py;
    to_channels(p, resample(p, p.luma_x, p.luma_y, sx, sy, y, y_pitch, 1),
                resample(p, p.chroma_x, p.chroma_y, sx, sy, u, c_pitch, p.c_step),
                resample(p, p.chroma_x, p.chroma_y, sx, sy, v, c_pitch, p.c_step), values);
  }
  for (int c = 0; c < 3; c++)
    put(slot + ((int64_t)c * p.height + row) * p.width + column, values[c]);
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
// long loops over neighbours. LANES rows of the output are made together: the plane's rows
// are blended for each, then interleaved, so that sampling across takes LANES neighbours at
// once. The same integers are summed as above, hence the same result.
#include <algorithm>
#include <memory>

enum { LANES = 4 };
typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

// Memory for one group of rows: `rows` plain, the others interleaved.
template <typename T>
struct Group {
  std::unique_ptr<uint32_t[]> rows;            // of a plane, or of two in one, blended
  std::unique_ptr<float[]> columns, y, u, v;   // a plane's rows; the resampled planes
  std::unique_ptr<T[]> first, second, third;   // channels
  Group(int width, int outputs)
      : rows(new uint32_t[LANES * width]), columns(new float[LANES * width]),
        y(new float[LANES * outputs]), u(new float[LANES * outputs]), v(new float[LANES * outputs]),
        first(new T[LANES * outputs]), second(new T[LANES * outputs]), third(new T[LANES * outputs]) {}
};

FN int16_t sample(uint8_t stored, int) { return stored; }
FN int16_t sample(uint16_t stored, int shift) { return (int16_t)(stored >> shift); }

// out = or += TAPS weighted rows. Both factors have 12 bits at most: vectors multiply 16 fastest.
template <int TAPS, typename S>
static void add_rows(uint32_t *__restrict out, bool more, int width, const uint8_t *top, int pitch,
                     int shift, const int32_t *weights, int stride) {
  const S *rows[TAPS];
  int16_t weight[TAPS];
  for (int k = 0; k < TAPS; k++) {
    rows[k] = (const S *)(top + (int64_t)k * pitch);
    weight[k] = (int16_t)weights[k * stride];
  }
  for (int x = 0; x < width; x++) {
    uint32_t sum = more ? out[x] : 0;
    for (int k = 0; k < TAPS; k++) sum += (uint32_t)(weight[k] * sample(rows[k][x], shift));
    out[x] = sum;
  }
}

// LANES rows of `width` neighbouring samples, each blended for one of the outputs i, i + 1, …
template <typename S>
static void blend_rows(uint32_t *out, int width, const uint8_t *plane, int pitch, const Plan &p,
                       const Axis &axis, int i) {
  const int32_t *tables = (const int32_t *)&p;
  for (int r = 0; r < LANES; r++, out += width) {
    int output = min_int(i + r, axis.outputs - 1);
    const uint8_t *top = plane + (int64_t)tables[axis.first + output] * pitch;
    const int32_t *weights = tables + axis.weights + output;
    for (int k = 0; k < axis.taps; k += 4, top += 4 * (int64_t)pitch, weights += 4 * axis.outputs) {
      auto add = axis.taps - k == 1   ? add_rows<1, S>
                 : axis.taps - k == 2 ? add_rows<2, S>
                 : axis.taps - k == 3 ? add_rows<3, S>
                                      : add_rows<4, S>;
      add(out, k > 0, width, top, pitch, p.shift, weights, axis.outputs);
    }
  }
}

// LANES neighbouring rows side by side, of which every STEP-th sample counts.
template <int STEP>
static void interleave(float *__restrict out, const uint32_t *rows, int count, int excess) {
  const int pitch = count * STEP;
  for (int x = 0; x < count; x++)
    for (int r = 0; r < LANES; r++)
      out[x * LANES + r] = round_off(rows[r * pitch + x * STEP], excess);
}

// The outputs of one axis, of LANES interleaved rows. TAPS is 0 where it is not known here.
template <int TAPS>
static void sample_across(float *__restrict out, const float *columns, const int32_t *tables,
                          const Axis &axis) {
  const int32_t *first = tables + axis.first;
  const float *weights = (const float *)(tables + axis.weights);
  const int taps = TAPS ? TAPS : axis.taps, outputs = axis.outputs;
  for (int x = 0; x < outputs; x++) {
    const Lanes *from = (const Lanes *)(columns + first[x] * LANES);
    Lanes sum = weights[x] * from[0];
    for (int k = 1; k < taps; k++) sum += weights[k * outputs + x] * from[k];
    *(Lanes *)(out + x * LANES) = sum;
  }
}

template <int STEP>
static void resample_rows(float *out, float *columns, const uint32_t *rows, int count, const Plan &p,
                          const Axis &axis) {
  interleave<STEP>(columns, rows, count, p.excess);
  auto across = axis.taps == 2   ? sample_across<2>
                : axis.taps == 3 ? sample_across<3>
                : axis.taps == 4 ? sample_across<4>
                                 : sample_across<0>;
  across(out, columns, (const int32_t *)&p, axis);
}

template <typename T>
static void convert(T *__restrict first, T *__restrict second, T *__restrict third, const float *y,
                    const float *u, const float *v, int count, const Plan &plan) {
  const Plan p = plan;  // a copy, which no output can seem to change
  for (int i = 0; i < count; i++) {
    float channels[3];
    to_channels(p, y[i], u[i], v[i], channels);
    put(first + i, channels[0]);
    put(second + i, channels[1]);
    put(third + i, channels[2]);
  }
}

template <typename T>
static void put_rows(T *__restrict out, int64_t along, int64_t down, const T *__restrict values,
                     int count, int rows) {
  if (rows == LANES && along == 1)
    for (int x = 0; x < count; x++)
      for (int r = 0; r < LANES; r++) out[r * down + x] = values[x * LANES + r];
  else
    for (int x = 0; x < count; x++)
      for (int r = 0; r < rows; r++) out[r * down + x * along] = values[x * LANES + r];
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

template <typename S, typename T>
static void letterbox_slot(const uint8_t *y, const uint8_t *u, const uint8_t *v, int y_pitch,
                           int c_pitch, T *out, const Plan &p) {
  const int64_t channel = (int64_t)p.height * p.width;
  const int64_t along = p.transposed ? p.width : 1, down = p.transposed ? 1 : p.width;
  const int width = p.stored_width, half = (width + 1) / 2, outputs = p.luma_x.outputs;
  Group<T> g(width + 1, outputs);
  uint32_t *rows = g.rows.get();
  float *columns = g.columns.get();
  for (int c = 0; c < 3; c++) put_padding(out + c * channel, p, p.pad[c]);
  out += (int64_t)p.top * p.width + p.left;
  for (int i = 0; i < p.luma_y.outputs; i += LANES, out += LANES * down) {
    blend_rows<S>(rows, width, y, y_pitch, p, p.luma_y, i);
    resample_rows<1>(g.y.get(), columns, rows, width, p, p.luma_x);
    if (p.c_step == 1) {
      blend_rows<S>(rows, half, u, c_pitch, p, p.chroma_y, i);
      resample_rows<1>(g.u.get(), columns, rows, half, p, p.chroma_x);
      blend_rows<S>(rows, half, v, c_pitch, p, p.chroma_y, i);
      resample_rows<1>(g.v.get(), columns, rows, half, p, p.chroma_x);
    } else {
      blend_rows<S>(rows, 2 * half, u < v ? u : v, c_pitch, p, p.chroma_y, i);
      resample_rows<2>(g.u.get(), columns, rows + (u > v), half, p, p.chroma_x);
      resample_rows<2>(g.v.get(), columns, rows + (v > u), half, p, p.chroma_x);
    }
    T *channels[3] = {g.first.get(), g.second.get(), g.third.get()};
    convert(channels[0], channels[1], channels[2], g.y.get(), g.u.get(), g.v.get(), LANES * outputs, p);
    const int filled = min_int(LANES, p.luma_y.outputs - i);
    for (int c = 0; c < 3; c++)
      put_rows(out + c * channel, along, down, channels[c], outputs, filled);
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
