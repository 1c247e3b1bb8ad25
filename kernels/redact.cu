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
  int sums, means;  // where its sums (rows * block / 2, columns, 3) and means begin
};

enum { PIXELATE, BLUR };
enum { BOX, ELLIPSE };

FN int32_t sum_run(const uint8_t *plane, int64_t pitch, int step, int wide, int shift, int y, int x,
                   int end) {
  int32_t sum = 0;
  for (; x < end; x++) sum += load_sample(plane, pitch, step, wide, shift, y, x);
  return sum;
}

// Sums over each row of cells in each block, so that a large block is not one thread's work.
// A column here is one plane of a block: y, u, v, y, …
KERNEL(redact_rows)(const uint8_t *__restrict__ y, const uint8_t *__restrict__ u,
                    const uint8_t *__restrict__ v, int y_pitch, int c_pitch, int c_step, int wide,
                    int shift, int width, int height, const Region *__restrict__ regions,
                    int count, int max_rows, int max_columns, int32_t *__restrict__ sums) {
  FOR_PIXELS(n, row, x, count, max_rows, max_columns) {
    const Region &r = regions[n];
    int pitch = r.columns * 3, half = r.block / 2;
    if (row >= r.rows * half || x >= pitch) continue;
    int luma = x % 3 == 0, size = luma ? 2 : 1;  // samples of a cell along a side
    int cy = r.y0 / 2 + row, cx = r.x0 / 2 + x / 3 * half;
    int bottom = min_int((cy + 1) * size, luma ? height : (height + 1) / 2);
    int right = min_int((cx + half) * size, luma ? width : (width + 1) / 2);
    const uint8_t *plane = luma ? y : x % 3 == 1 ? u : v;
    int32_t sum = 0;
    for (int j = cy * size; j < bottom; j++)
      if (luma || c_step == 1)  // a step that the compiler knows lets it vectorise
        sum += sum_run(plane, luma ? y_pitch : c_pitch, 1, wide, shift, j, cx * size, right);
      else
        sum += sum_run(plane, c_pitch, 2, wide, shift, j, cx * size, right);
    sums[r.sums + row * pitch + x] = sum;
  }
}

// The mean of each block over the samples that the picture has there, rounded to nearest.
KERNEL(redact_means)(int width, int height, const Region *__restrict__ regions, int count,
                     int max_rows, int max_columns, const int32_t *__restrict__ sums,
                     int32_t *__restrict__ means) {
  FOR_PIXELS(n, row, x, count, max_rows, max_columns) {
    const Region &r = regions[n];
    int pitch = r.columns * 3, half = r.block / 2;
    if (row >= r.rows || x >= pitch) continue;
    int across = min_int(r.block, width - r.x0 / 2 * 2 - x / 3 * r.block);
    int down = min_int(r.block, height - r.y0 / 2 * 2 - row * r.block);
    if (x % 3) across = (across + 1) / 2, down = (down + 1) / 2;
    int64_t sum = 0, samples = (int64_t)across * down;
    for (int k = row * half; k < (row + 1) * half; k++) sum += sums[r.sums + k * pitch + x];
    means[r.means + row * pitch + x] = (int32_t)((sum + samples / 2) / samples);
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

FN int mix(int a, int b, int part) { return a * (256 - part) + b * part; }

// Whether the region covers the centre of luma sample (x, y): for an ellipse of axes a, b,
// u^2 b^2 + v^2 a^2 <= a^2 b^2, all in half samples.
FN bool covers(const Region &r, int shape, int y, int x) {
  if (x < r.x0 || x >= r.x1 || y < r.y0 || y >= r.y1) return false;
  if (shape == BOX) return true;
  int64_t a = r.right - r.left, b = r.bottom - r.top;
  int64_t u = 2 * x + 1 - r.left - r.right, v = 2 * y + 1 - r.top - r.bottom;
  return (uint64_t)(u * u) * (uint64_t)(b * b) + (uint64_t)(v * v) * (uint64_t)(a * a) <=
         (uint64_t)(a * a) * (uint64_t)(b * b);
}

// A cell takes one value. Its chroma goes where any of its luma goes, so that no colour of the
// region shows at the rim.
#if defined(__CUDACC__) || defined(VIDAI_DEVICE_FORM)

FN int value_at(const Region &r, const int32_t *means, Spot down, Spot across, int plane) {
  const int32_t *from = means + r.means + plane;
  const int32_t *upper = from + down.at * r.columns * 3, *lower = from + down.next * r.columns * 3;
  int left = mix(upper[across.at * 3], lower[across.at * 3], down.part);
  int right = mix(upper[across.next * 3], lower[across.next * 3], down.part);
  return (mix(left, right, across.part) + 32768) >> 16;
}

KERNEL(redact_apply)(uint8_t *__restrict__ y, uint8_t *__restrict__ u, uint8_t *__restrict__ v,
                     int y_pitch, int c_pitch, int c_step, int wide, int shift, int width,
                     int height, const Region *__restrict__ regions, int count, int style,
                     int shape, const int32_t *__restrict__ means) {
  FOR_ITEMS_AT_CELLS(Region, r, cy, cx, regions, count, height, width) {
    int top = 2 * cy, left = 2 * cx;
    bool a = covers(r, shape, top, left), b = covers(r, shape, top, left + 1);
    bool c = covers(r, shape, top + 1, left), d = covers(r, shape, top + 1, left + 1);
    if (!(a | b | c | d)) continue;
    Spot down = find_spot(r, style, cy - r.y0 / 2, r.rows);
    Spot across = find_spot(r, style, cx - r.x0 / 2, r.columns);
    int value = value_at(r, means, down, across, 0);
    if (a) store_sample(y, y_pitch, 1, wide, shift, top, left, value);
    if (b) store_sample(y, y_pitch, 1, wide, shift, top, left + 1, value);
    if (c) store_sample(y, y_pitch, 1, wide, shift, top + 1, left, value);
    if (d) store_sample(y, y_pitch, 1, wide, shift, top + 1, left + 1, value);
    store_sample(u, c_pitch, c_step, wide, shift, cy, cx, value_at(r, means, down, across, 1));
    store_sample(v, c_pitch, c_step, wide, shift, cy, cx, value_at(r, means, down, across, 2));
  }
}

#else

// The host's own traversal: what a row, or a column, of cells shares is made once for it.
#include <vector>

// The luma samples of row y that the region covers, of which none lies apart from the others.
struct Span {
  int begin, end;
  Span(const Region &r, int shape, int y) : begin(r.x0), end(r.x1) {
    while (begin < end && !covers(r, shape, y, begin)) begin++;
    while (begin < end && !covers(r, shape, y, end - 1)) end--;
  }
  bool has(int x) const { return x >= begin && x < end; }
};

KERNEL(redact_apply)(uint8_t *__restrict__ y, uint8_t *__restrict__ u, uint8_t *__restrict__ v,
                     int y_pitch, int c_pitch, int c_step, int wide, int shift, int, int,
                     const Region *__restrict__ regions, int count, int style, int shape,
                     const int32_t *__restrict__ means) {
  for (int n = 0; n < count; n++) {
    const Region r = regions[n];
    std::vector<Spot> columns;
    for (int cx = r.x0 / 2; 2 * cx < r.x1; cx++)
      columns.push_back(find_spot(r, style, cx - r.x0 / 2, r.columns));
    std::vector<int> line(3 * r.columns);
    for (int cy = r.y0 / 2; 2 * cy < r.y1; cy++) {
      const Span upper(r, shape, 2 * cy), lower(r, shape, 2 * cy + 1);
      const Spot down = find_spot(r, style, cy - r.y0 / 2, r.rows);
      const int32_t *above = means + r.means + down.at * 3 * r.columns;
      const int32_t *below = means + r.means + down.next * 3 * r.columns;
      for (int k = 0; k < 3 * r.columns; k++) line[k] = mix(above[k], below[k], down.part);
      for (int cx = r.x0 / 2; 2 * cx < r.x1; cx++) {
        int x = 2 * cx, values[3];
        bool a = upper.has(x), b = upper.has(x + 1), c = lower.has(x), d = lower.has(x + 1);
        if (!(a | b | c | d)) continue;
        const Spot across = columns[cx - r.x0 / 2];
        const int *left = &line[3 * across.at], *right = &line[3 * across.next];
        for (int k = 0; k < 3; k++) values[k] = (mix(left[k], right[k], across.part) + 32768) >> 16;
        if (a) store_sample(y, y_pitch, 1, wide, shift, 2 * cy, x, values[0]);
        if (b) store_sample(y, y_pitch, 1, wide, shift, 2 * cy, x + 1, values[0]);
        if (c) store_sample(y, y_pitch, 1, wide, shift, 2 * cy + 1, x, values[0]);
        if (d) store_sample(y, y_pitch, 1, wide, shift, 2 * cy + 1, x + 1, values[0]);
        store_sample(u, c_pitch, c_step, wide, shift, cy, cx, values[1]);
        store_sample(v, c_pitch, c_step, wide, shift, cy, cx, values[2]);
      }
    }
  }
}

#endif
