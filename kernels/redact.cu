// Makes regions of a writable surface unrecognisable: nothing of a region survives but the
// means of square blocks, painted as they are or interpolated between block centres.
//
// redact_rows and redact_means read the untouched picture, redact_apply then writes. Blocks
// begin at even samples and have an even size, so that a cell of 2x2 luma samples and its
// chroma sample lie in one block.
#include "grid.h"

// A region in stored luma samples. The columns of vidai.ops.redact's regions.
struct Region {
  int x0, y0, x1, y1;  // inside the picture
  int left, top, right, bottom;  // as asked for: what an ellipse fills
  int block, columns, rows;  // the grid of blocks, from x0 and y0 rounded down to even
  int step;  // 2^32 / block, rounded up
  int sums, means;  // where its (rows * block / 2, columns, 3) sums and (rows, columns, 3) means are
};

enum { PIXELATE, BLUR };
enum { BOX, ELLIPSE };

// Sums over each row of cells in each block, so that a large block is not one thread's work.
FN void sum_rows(const uint8_t *luma, const uint8_t *u, const uint8_t *v, int y_pitch, int c_pitch,
                 int c_step, int wide, int shift, int width, int height, const Region *regions,
                 int count, int max_rows, int max_columns, int32_t *sums) {
  FOR_PIXELS(n, row, column, count, max_rows, max_columns) {
    const Region r = regions[n];
    int half = r.block / 2;
    if (row >= r.rows * half || column >= r.columns) continue;
    int cy = r.y0 / 2 + row, cx = r.x0 / 2 + column * half;
    int32_t sum[3] = {0, 0, 0};
    if (2 * cy < height) {
      for (int y = 2 * cy; y < min_int(2 * cy + 2, height); y++)
        for (int x = 2 * cx; x < min_int(2 * cx + r.block, width); x++)
          sum[0] += load_sample(luma, y_pitch, 1, wide, shift, y, x);
      for (int x = cx; x < min_int(cx + half, (width + 1) / 2); x++) {
        sum[1] += load_sample(u, c_pitch, c_step, wide, shift, cy, x);
        sum[2] += load_sample(v, c_pitch, c_step, wide, shift, cy, x);
      }
    }
    for (int i = 0; i < 3; i++) sums[r.sums + (row * r.columns + column) * 3 + i] = sum[i];
  }
}

KERNEL(redact_rows)(const uint8_t *__restrict__ y, const uint8_t *__restrict__ u,
                    const uint8_t *__restrict__ v, int y_pitch, int c_pitch, int c_step, int wide,
                    int shift, int width, int height, const Region *__restrict__ regions,
                    int count, int max_rows, int max_columns, int32_t *__restrict__ sums) {
  if (wide)
    sum_rows(y, u, v, y_pitch, c_pitch, c_step, 1, shift, width, height, regions, count, max_rows,
             max_columns, sums);
  else
    sum_rows(y, u, v, y_pitch, c_pitch, c_step, 0, 0, width, height, regions, count, max_rows,
             max_columns, sums);
}

// The mean of each block over the samples that the picture has there, rounded to nearest.
KERNEL(redact_means)(int width, int height, const Region *__restrict__ regions, int count,
                     int max_rows, int max_columns, const int32_t *__restrict__ sums,
                     int32_t *__restrict__ means) {
  FOR_PIXELS(n, row, column, count, max_rows, max_columns) {
    const Region r = regions[n];
    if (row >= r.rows || column >= r.columns) continue;
    int half = r.block / 2;
    int across = min_int(r.block, width - (r.x0 / 2 * 2 + column * r.block));
    int down = min_int(r.block, height - (r.y0 / 2 * 2 + row * r.block));
    for (int i = 0; i < 3; i++) {
      int64_t sum = 0;
      for (int k = 0; k < half; k++)
        sum += sums[r.sums + ((row * half + k) * r.columns + column) * 3 + i];
      int64_t samples = i == 0 ? (int64_t)across * down : (int64_t)((across + 1) / 2) * ((down + 1) / 2);
      means[r.means + (row * r.columns + column) * 3 + i] = (int32_t)((sum + samples / 2) / samples);
    }
  }
}

// Where a cell's centre lies among block centres: between `at` and `next`, `part` 256ths on.
struct Spot {
  int at, next, part;
};

FN Spot find_spot(const Region &r, int style, int cell, int blocks) {
  if (style == PIXELATE) {
    int at = (int)((int64_t)(2 * cell + 1) * r.step >> 32);
    return {at, at, 0};
  }
  int64_t place = (int64_t)(2 * cell + 1 - r.block / 2) * r.step;
  int at = clamp_int((int)(place >> 32), 0, blocks - 1);
  if (place < 0 || at == blocks - 1) return {at, at, 0};
  return {at, at + 1, (int)(place >> 24) & 255};
}

FN int value_at(const Region &r, const int32_t *means, Spot down, Spot across, int plane) {
  const int32_t *from = means + r.means + plane;
  const int32_t *upper = from + down.at * r.columns * 3, *lower = from + down.next * r.columns * 3;
  uint32_t high = upper[across.at * 3] * (256 - across.part) + upper[across.next * 3] * across.part;
  uint32_t low = lower[across.at * 3] * (256 - across.part) + lower[across.next * 3] * across.part;
  return (int)((high * (256 - down.part) + low * down.part + 32768) >> 16);
}

// Whether the region covers the centre of luma sample (x, y): for an ellipse of axes a, b,
// u^2 b^2 + v^2 a^2 <= a^2 b^2, all in half samples.
FN int covers(const Region &r, int shape, int y, int x) {
  if (x < r.x0 || x >= r.x1 || y < r.y0 || y >= r.y1) return 0;
  if (shape == BOX) return 1;
  int64_t a = r.right - r.left, b = r.bottom - r.top;
  int64_t u = 2 * x + 1 - r.left - r.right, v = 2 * y + 1 - r.top - r.bottom;
  return (uint64_t)(u * u) * (uint64_t)(b * b) + (uint64_t)(v * v) * (uint64_t)(a * a) <=
         (uint64_t)(a * a) * (uint64_t)(b * b);
}

// A cell takes one value. Its chroma goes where any of its luma goes, so that no colour of the
// region shows at the rim.
FN void apply(uint8_t *luma, uint8_t *u, uint8_t *v, int y_pitch, int c_pitch, int c_step, int wide,
              int shift, int width, int height, const Region *regions, int count, int style,
              int shape, const int32_t *means) {
  FOR_ITEMS_AT_CELLS(Region, r, cy, cx, regions, count, height, width) {
    int y = 2 * cy, x = 2 * cx;
    int a = covers(r, shape, y, x), b = covers(r, shape, y, x + 1);
    int c = covers(r, shape, y + 1, x), d = covers(r, shape, y + 1, x + 1);
    if (!(a | b | c | d)) continue;
    Spot down = find_spot(r, style, cy - r.y0 / 2, r.rows);
    Spot across = find_spot(r, style, cx - r.x0 / 2, r.columns);
    int value = value_at(r, means, down, across, 0);
    if (a) store_sample(luma, y_pitch, 1, wide, shift, y, x, value);
    if (b) store_sample(luma, y_pitch, 1, wide, shift, y, x + 1, value);
    if (c) store_sample(luma, y_pitch, 1, wide, shift, y + 1, x, value);
    if (d) store_sample(luma, y_pitch, 1, wide, shift, y + 1, x + 1, value);
    store_sample(u, c_pitch, c_step, wide, shift, cy, cx, value_at(r, means, down, across, 1));
    store_sample(v, c_pitch, c_step, wide, shift, cy, cx, value_at(r, means, down, across, 2));
  }
}

KERNEL(redact_apply)(uint8_t *__restrict__ y, uint8_t *__restrict__ u, uint8_t *__restrict__ v,
                     int y_pitch, int c_pitch, int c_step, int wide, int shift, int width,
                     int height, const Region *__restrict__ regions, int count, int style,
                     int shape, const int32_t *__restrict__ means) {
  // Constants let the compiler keep only what each style needs.
  if (style == BLUR)
    apply(y, u, v, y_pitch, c_pitch, c_step, wide, shift, width, height, regions, count, BLUR,
          shape, means);
  else
    apply(y, u, v, y_pitch, c_pitch, c_step, wide, shift, width, height, regions, count, PIXELATE,
          shape, means);
}
