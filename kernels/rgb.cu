// A 4:2:0 surface as an upright picture of interleaved 8-bit R, G, B.
//
// A chroma sample lies in the centre of its 2x2 luma samples, so that a pixel's chroma is
// 9, 3, 3 and 1 sixteenths of its four nearest samples. All arithmetic is in 16-bit integers,
// of which vectors hold the most: within 1 of the exact value, and equal on every device.
// Reads 1.5 samples and writes 3 bytes per pixel.
#include "grid.h"

// What frames of one format share; vidai.ops.rgb writes the same fields.
struct Format {
  int32_t width, height, orientation, wide, shift, c_step;
  int32_t black, neutral, unit;                   // neutral: in sixteenths; unit: see to_rgb
  int32_t luma, v_red, u_green, v_green, u_blue;  // in 32nds of a byte of 2^15 units
};

// a * b / 2^15, rounded: one instruction for a vector.
FN int16_t scale(int16_t a, int16_t b) { return (int16_t)(((a * b >> 14) + 1) >> 1); }

FN uint8_t to_byte(int16_t sum) {
  int16_t value = (int16_t)((int16_t)(sum + 16) >> 5);
  return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

// u and v are in sixteenths. A sixteenth is as many units as 16 bits have room for, and sums
// are in 32nds of a byte, of which they reach 550.
FN void to_rgb(const Format &f, int y, int u, int v, uint8_t *red, uint8_t *green, uint8_t *blue) {
  int16_t luma = scale((int16_t)((y - f.black) * 16 * f.unit), (int16_t)f.luma);
  int16_t cb = (int16_t)((u - f.neutral) * f.unit), cr = (int16_t)((v - f.neutral) * f.unit);
  int16_t of_u = scale(cb, (int16_t)f.u_green), of_v = scale(cr, (int16_t)f.v_green);
  *red = to_byte((int16_t)(luma + scale(cr, (int16_t)f.v_red)));
  *green = to_byte((int16_t)(luma + of_u + of_v));
  *blue = to_byte((int16_t)(luma + scale(cb, (int16_t)f.u_blue)));
}

// The second nearest chroma sample of a luma sample, along one axis; the nearest is at / 2.
FN int other(int at, int samples) { return clamp_int(at / 2 + (at & 1 ? 1 : -1), 0, samples - 1); }

#if defined(__CUDACC__) || defined(VIDAI_DEVICE_FORM)

FN int chroma(const Format &f, const uint8_t *plane, int pitch, int x, int y) {
  int x1 = other(x, (f.width + 1) / 2), y1 = other(y, (f.height + 1) / 2);
  int near = 3 * load_sample(plane, pitch, f.c_step, f.wide, f.shift, y / 2, x / 2) +
             load_sample(plane, pitch, f.c_step, f.wide, f.shift, y1, x / 2);
  int far = 3 * load_sample(plane, pitch, f.c_step, f.wide, f.shift, y / 2, x1) +
            load_sample(plane, pitch, f.c_step, f.wide, f.shift, y1, x1);
  return 3 * near + far;
}

KERNEL(rgb)(const uint8_t *y, const uint8_t *u, const uint8_t *v, int y_pitch, int c_pitch,
            uint8_t *out, const Format *format) {
  const Format &f = *format;
  const bool transposed = f.orientation & TRANSPOSE;
  const int rows = transposed ? f.width : f.height, columns = transposed ? f.height : f.width;
  FOR_PIXELS(n, row, column, 1, rows, columns) {
    int sx = stored_x(f.orientation, column, row, f.width);
    int sy = stored_y(f.orientation, column, row, f.height);
    uint8_t *pixel = out + ((int64_t)row * columns + column) * 3;
    to_rgb(f, load_sample(y, y_pitch, 1, f.wide, f.shift, sy, sx), chroma(f, u, c_pitch, sx, sy),
           chroma(f, v, c_pitch, sx, sy), pixel, pixel + 1, pixel + 2);
  }
}

#else

// The host's own traversal, row by stored row, in loops over neighbours that suit vectors.
#include <memory>

FN int value(uint8_t stored, int) { return stored; }
FN int value(uint16_t stored, int shift) { return stored >> shift; }

// A row of chroma in sixteenths, for each luma sample; `row` has room for count + 2.
template <typename S, int STEP>
static void chroma_row(int16_t *__restrict out, int16_t *__restrict row, const S *near, const S *far,
                       int count, int shift) {
  for (int x = 0; x < count; x++)
    row[x + 1] = (int16_t)(3 * value(near[x * STEP], shift) + value(far[x * STEP], shift));
  row[0] = row[1];
  row[count + 1] = row[count];
  for (int x = 0; x < count; x++) {
    out[2 * x] = (int16_t)(3 * row[x + 1] + row[x]);
    out[2 * x + 1] = (int16_t)(3 * row[x + 1] + row[x + 2]);
  }
}

template <typename S>
static void rgb_picture(const uint8_t *y, const uint8_t *u, const uint8_t *v, int y_pitch, int c_pitch,
                        uint8_t *out, const Format f) {
  const int half_width = (f.width + 1) / 2, half_height = (f.height + 1) / 2, even = 2 * half_width;
  const bool transposed = f.orientation & TRANSPOSE;
  int64_t along = 3 * (transposed ? (int64_t)f.height : 1), down = 3 * (transposed ? 1 : (int64_t)f.width);
  if (f.orientation & FLIP_X) out += (f.width - 1) * along, along = -along;
  if (f.orientation & FLIP_Y) out += (f.height - 1) * down, down = -down;
  std::unique_ptr<int16_t[]> memory(new int16_t[2 * even + half_width + 2]);
  std::unique_ptr<uint8_t[]> bytes(new uint8_t[3 * f.width]);
  int16_t *us = memory.get(), *vs = us + even, *scratch = vs + even;
  uint8_t *__restrict red = bytes.get();
  uint8_t *__restrict green = red + f.width, *__restrict blue = green + f.width;
  auto chroma = f.c_step == 1 ? chroma_row<S, 1> : chroma_row<S, 2>;
  for (int i = 0; i < f.height; i++, out += down) {
    const S *row = (const S *)(y + (int64_t)i * y_pitch);
    int64_t near = (int64_t)(i / 2) * c_pitch, far = (int64_t)other(i, half_height) * c_pitch;
    chroma(us, scratch, (const S *)(u + near), (const S *)(u + far), half_width, f.shift);
    chroma(vs, scratch, (const S *)(v + near), (const S *)(v + far), half_width, f.shift);
    for (int x = 0; x < f.width; x++)
      to_rgb(f, value(row[x], f.shift), us[x], vs[x], red + x, green + x, blue + x);
    if (along == 3)
      for (int x = 0; x < f.width; x++)
        out[3 * x] = red[x], out[3 * x + 1] = green[x], out[3 * x + 2] = blue[x];
    else
      for (int x = 0; x < f.width; x++)
        out[along * x] = red[x], out[along * x + 1] = green[x], out[along * x + 2] = blue[x];
  }
}

KERNEL(rgb)(const uint8_t *y, const uint8_t *u, const uint8_t *v, int y_pitch, int c_pitch,
            uint8_t *out, const Format *format) {
  if (format->wide) rgb_picture<uint16_t>(y, u, v, y_pitch, c_pitch, out, *format);
  else rgb_picture<uint8_t>(y, u, v, y_pitch, c_pitch, out, *format);
}

#endif
