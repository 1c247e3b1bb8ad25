// An upright picture of interleaved 8-bit R, G, B onto the planes of a writable 4:2:0 surface:
// the way back from rgb.cu.
//
// A thread owns a cell of 2x2 luma samples and its chroma sample, which takes the mean of the
// pixels that it stands for: at an odd edge of the picture these are fewer than four. Every
// sample is rounded to nearest. Reads 3 bytes and writes 1.5 samples per pixel.
#include "grid.h"

// Of a sample, in 2^18ths: what R, G, B and nothing contribute.
struct Weights {
  int32_t red, green, blue, zero;
};

// What frames of one format share; vidai.ops.yuv writes the same fields.
struct Target {
  int32_t width, height, wide, shift, c_step;
  int32_t top;                    // the largest sample
  int32_t start, step_x, step_y;  // stored pixel (x, y) is at start + x step_x + y step_y
  Weights y, u, v;
};

// A sample from sums of R, G and B over 1, 2 or 4 pixels: 10 bits, 18 of fraction and the 2
// bits of four pixels just fit.
FN int to_sample(Weights of, int red, int green, int blue, int halvings, int top) {
  int sum = of.red * red + of.green * green + of.blue * blue + (of.zero << halvings);
  return min_int(sum >> (18 + halvings), top);
}

FN void write_cells(uint8_t *y, uint8_t *u, uint8_t *v, int y_pitch, int c_pitch, int wide,
                    const uint8_t *rgb, const Target &t) {
  FOR_PIXELS(n, cy, cx, 1, (t.height + 1) / 2, (t.width + 1) / 2) {
    int red = 0, green = 0, blue = 0;
    int bottom = min_int(2 * cy + 2, t.height), right = min_int(2 * cx + 2, t.width);
    for (int sy = 2 * cy; sy < bottom; sy++)
      for (int sx = 2 * cx; sx < right; sx++) {
        const uint8_t *pixel = rgb + t.start + sx * t.step_x + sy * t.step_y;
        int luma = to_sample(t.y, pixel[0], pixel[1], pixel[2], 0, t.top);
        store_sample(y, y_pitch, 1, wide, t.shift, sy, sx, luma);
        red += pixel[0], green += pixel[1], blue += pixel[2];
      }
    int halvings = (bottom - 2 * cy) / 2 + (right - 2 * cx) / 2;
    int cb = to_sample(t.u, red, green, blue, halvings, t.top);
    int cr = to_sample(t.v, red, green, blue, halvings, t.top);
    store_sample(u, c_pitch, t.c_step, wide, t.shift, cy, cx, cb);
    store_sample(v, c_pitch, t.c_step, wide, t.shift, cy, cx, cr);
  }
}

KERNEL(rgb_to_yuv)(uint8_t *__restrict__ y, uint8_t *__restrict__ u, uint8_t *__restrict__ v,
                   int y_pitch, int c_pitch, const uint8_t *__restrict__ rgb,
                   const Target *__restrict__ target) {
  if (target->wide) write_cells(y, u, v, y_pitch, c_pitch, 1, rgb, *target);
  else write_cells(y, u, v, y_pitch, c_pitch, 0, rgb, *target);
}
