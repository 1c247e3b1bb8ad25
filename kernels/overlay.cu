// Draws filled rectangles and glyphs, in order, on the planes of a writable surface.
#include "grid.h"

// A rectangle of one colour, seen through a mask of 8-bit coverage: that of luma sample (x, y)
// is mask[start + x * step_x + y * step_y]. Steps of a glyph's width and one turn text with
// the picture; steps of 0 fill a rectangle evenly. The columns of vidai.ops.overlay's items.
struct Item {
  int x0, y0, x1, y1;
  int luma, u, v;
  int alpha;  // 0–256
  int start, step_x, step_y;
};

// From a to b in 256 steps, rounded to nearest.
FN int blend(int a, int b, int alpha) { return (a * (256 - alpha) + b * alpha + 128) >> 8; }

// How much of the item luma sample (x, y) takes, 0–256.
FN int alpha_at(const Item &item, const uint8_t *mask, int y, int x) {
  if (x < item.x0 || x >= item.x1 || y < item.y0 || y >= item.y1) return 0;
  int coverage = mask[item.start + x * item.step_x + y * item.step_y];
  return blend(0, item.alpha, coverage + (coverage >> 7));
}

FN void mix(uint8_t *plane, int pitch, int step, int wide, int shift, int y, int x, int color,
            int alpha) {
  int old = load_sample(plane, pitch, step, wide, shift, y, x);
  store_sample(plane, pitch, step, wide, shift, y, x, blend(old, color, alpha));
}

// `count` neighbours in a row; the constant step lets the compiler vectorise.
FN void mix_run(uint8_t *plane, int pitch, int step, int wide, int shift, int y, int x, int count,
                int color, int alpha) {
  if (step == 1)
    for (int i = x; i < x + count; i++) mix(plane, pitch, 1, wide, shift, y, i, color, alpha);
  else
    for (int i = x; i < x + count; i++) mix(plane, pitch, step, wide, shift, y, i, color, alpha);
}

// The chroma sample of a cell takes the mean alpha of the luma samples that it stands for,
// which at an odd edge of the picture are fewer than four.
FN void draw(uint8_t *luma, uint8_t *u, uint8_t *v, int y_pitch, int c_pitch, int c_step, int wide,
             int shift, int width, int height, const Item *items, int count, const uint8_t *mask) {
  FOR_ITEMS_AT_CELLS(Item, item, cy, cx, items, count, height, width) {
    int y = 2 * cy, x = 2 * cx;
    int a = alpha_at(item, mask, y, x), b = alpha_at(item, mask, y, x + 1);
    int c = alpha_at(item, mask, y + 1, x), d = alpha_at(item, mask, y + 1, x + 1);
#if !defined(__CUDACC__) && !defined(VIDAI_DEVICE_FORM)
    // On the host the whole cells of an even fill go a row at a time, which is most of them.
    if (a && b && c && d && !item.step_x && !item.step_y) {
      int run = item.x1 / 2 - cx;
      mix_run(luma, y_pitch, 1, wide, shift, y, x, 2 * run, item.luma, a);
      mix_run(luma, y_pitch, 1, wide, shift, y + 1, x, 2 * run, item.luma, a);
      mix_run(u, c_pitch, c_step, wide, shift, cy, cx, run, item.u, a);
      mix_run(v, c_pitch, c_step, wide, shift, cy, cx, run, item.v, a);
      cx += run - 1;
      continue;
    }
#endif
    if (!(a | b | c | d)) continue;
    int halvings = (x + 1 < width) + (y + 1 < height);
    int alpha = (a + b + c + d + (1 << halvings >> 1)) >> halvings;
    if (a) mix(luma, y_pitch, 1, wide, shift, y, x, item.luma, a);
    if (b) mix(luma, y_pitch, 1, wide, shift, y, x + 1, item.luma, b);
    if (c) mix(luma, y_pitch, 1, wide, shift, y + 1, x, item.luma, c);
    if (d) mix(luma, y_pitch, 1, wide, shift, y + 1, x + 1, item.luma, d);
    mix(u, c_pitch, c_step, wide, shift, cy, cx, item.u, alpha);
    mix(v, c_pitch, c_step, wide, shift, cy, cx, item.v, alpha);
  }
}

KERNEL(overlay)(uint8_t *__restrict__ y, uint8_t *__restrict__ u, uint8_t *__restrict__ v,
                int y_pitch, int c_pitch, int c_step, int wide, int shift, int width, int height,
                const Item *__restrict__ items, int count, const uint8_t *__restrict__ mask) {
  if (wide) draw(y, u, v, y_pitch, c_pitch, c_step, 1, shift, width, height, items, count, mask);
  else draw(y, u, v, y_pitch, c_pitch, c_step, 0, 0, width, height, items, count, mask);
}
