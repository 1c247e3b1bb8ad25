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
FN int blend(int a, int b, int alpha) { return a + (((b - a) * alpha + 128) >> 8); }

// Where the picture lies. `wide` and `shift` are not in it, so that they can be constants.
struct Planes {
  uint8_t *y, *u, *v;
  int y_pitch, c_pitch, c_step, width, height;
};

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

// The chroma sample of a cell takes the mean alpha of the luma samples that it stands for,
// which at an odd edge of the picture are fewer than four.
FN void mix_chroma(const Planes &p, int wide, int shift, const Item &item, int cy, int cx, int sum) {
  int halvings = (2 * cx + 1 < p.width) + (2 * cy + 1 < p.height);
  int alpha = (sum + (1 << halvings >> 1)) >> halvings;
  mix(p.u, p.c_pitch, p.c_step, wide, shift, cy, cx, item.u, alpha);
  mix(p.v, p.c_pitch, p.c_step, wide, shift, cy, cx, item.v, alpha);
}

FN void draw_cell(const Planes &p, int wide, int shift, const Item &item, const uint8_t *mask, int cy,
                  int cx) {
  int y = 2 * cy, x = 2 * cx;
  int a = alpha_at(item, mask, y, x), b = alpha_at(item, mask, y, x + 1);
  int c = alpha_at(item, mask, y + 1, x), d = alpha_at(item, mask, y + 1, x + 1);
  if (!(a | b | c | d)) return;
  if (a) mix(p.y, p.y_pitch, 1, wide, shift, y, x, item.luma, a);
  if (b) mix(p.y, p.y_pitch, 1, wide, shift, y, x + 1, item.luma, b);
  if (c) mix(p.y, p.y_pitch, 1, wide, shift, y + 1, x, item.luma, c);
  if (d) mix(p.y, p.y_pitch, 1, wide, shift, y + 1, x + 1, item.luma, d);
  mix_chroma(p, wide, shift, item, cy, cx, a + b + c + d);
}

#if defined(__CUDACC__) || defined(VIDAI_DEVICE_FORM)

FN void draw(const Planes &p, int wide, int shift, const Item *items, int count, const uint8_t *mask) {
  FOR_ITEMS_AT_CELLS(Item, item, cy, cx, items, count, p.height, p.width)
  draw_cell(p, wide, shift, item, mask, cy, cx);
}

#else

// The host's own traversal: an item visits its own cells only, an even fill row by row.

// Neighbours in a row. Opaque fills and steps of one are constant, so that loops vectorise.
FN void mix_run(uint8_t *plane, int pitch, int step, int wide, int shift, int y, int x, int end,
                int color, int alpha) {
  if (alpha == 256 && step == 1)
    for (; x < end; x++) store_sample(plane, pitch, 1, wide, shift, y, x, color);
  else if (step == 1)
    for (; x < end; x++) mix(plane, pitch, 1, wide, shift, y, x, color, alpha);
  else
    for (; x < end; x++) mix(plane, pitch, step, wide, shift, y, x, color, alpha);
}

FN void fill(const Planes &p, int wide, int shift, const Item &item) {
  for (int y = item.y0; y < item.y1; y++)
    mix_run(p.y, p.y_pitch, 1, wide, shift, y, item.x0, item.x1, item.luma, item.alpha);
  for (int cy = item.y0 / 2; 2 * cy < item.y1; cy++) {
    int rows = (2 * cy >= item.y0) + (2 * cy + 1 < item.y1);
    int begin = (item.x0 + 1) / 2, end = item.x1 / 2, high = 2 * cy + 1 < p.height;
    int alpha = high ? (item.alpha * rows + 1) >> 1 : item.alpha;  // of cells covered across
    mix_run(p.u, p.c_pitch, p.c_step, wide, shift, cy, begin, end, item.u, alpha);
    mix_run(p.v, p.c_pitch, p.c_step, wide, shift, cy, begin, end, item.v, alpha);
    if (item.x0 % 2) mix_chroma(p, wide, shift, item, cy, begin - 1, item.alpha * rows);
    if (item.x1 % 2) mix_chroma(p, wide, shift, item, cy, end, item.alpha * rows);
  }
}

FN void draw(const Planes &p, int wide, int shift, const Item *items, int count, const uint8_t *mask) {
  for (int i = 0; i < count; i++) {
    const Item item = items[i];
    if (!item.step_x && !item.step_y) {
      fill(p, wide, shift, item);
      continue;
    }
    for (int cy = item.y0 / 2; 2 * cy < item.y1; cy++)
      for (int cx = item.x0 / 2; 2 * cx < item.x1; cx++)
        draw_cell(p, wide, shift, item, mask, cy, cx);
  }
}

#endif

KERNEL(overlay)(uint8_t *__restrict__ y, uint8_t *__restrict__ u, uint8_t *__restrict__ v,
                int y_pitch, int c_pitch, int c_step, int wide, int shift, int width, int height,
                const Item *__restrict__ items, int count, const uint8_t *__restrict__ mask) {
  const Planes planes = {y, u, v, y_pitch, c_pitch, c_step, width, height};
  if (wide) draw(planes, 1, shift, items, count, mask);
  else draw(planes, 0, 0, items, count, mask);
}
