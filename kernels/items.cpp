// What the drawing kernels are given, laid out on the host for every device: the rectangles of
// `overlay`, outlines and letters, and the regions of `redact`, from boxes in display pixels.

#include "grid.h"

namespace {

const int FAR = 1 << 20;  // px; what reaches further is cut there, where floats are still exact

struct Rect {
  int x0, y0, x1, y1;  // half open
};

// The stored picture, and how display pixels lie in it.
struct Picture {
  int width, height, orientation;

  int display_width() const { return orientation & TRANSPOSE ? height : width; }
  int display_height() const { return orientation & TRANSPOSE ? width : height; }

  // From display to stored px.
  Rect to_stored(Rect r) const {
    if (orientation & TRANSPOSE) r = {r.y0, r.x0, r.y1, r.x1};
    if (orientation & FLIP_X) r = {width - r.x1, r.y0, width - r.x0, r.y1};
    if (orientation & FLIP_Y) r = {r.x0, height - r.y1, r.x1, height - r.y0};
    return r;
  }
};

// x1 y1 x2 y2 in display px.
struct Box {
  float x1, y1, x2, y2;

  // Finite, and with an area.
  bool drawable() const {
    return isfinite(x1) && isfinite(y1) && isfinite(x2) && isfinite(y2) && x2 > x1 && y2 > y1;
  }
};

struct Color {
  int luma, u, v;
};

struct Colors {
  Color fill, ink;  // of outline and ground, and of the text on it
};

// A rectangle of one colour seen through the glyphs' mask, as in overlay.cu.
struct Item {
  Rect rect;
  Color color;
  int alpha, start, step_x, step_y;
};

// Where a glyph's coverage starts in the mask, and its box. left and top are counted from the
// pen on the baseline, y down; advance is how far the pen moves on. See vidai.glyphs.
struct Glyph {
  int start, width, height, left, top, advance;
};

struct Font {
  const Glyph *glyphs;
  int ascent, descent;  // px of the line above and below the baseline
};

// Items, of which only those that touch the picture are kept.
struct Items {
  const Picture picture;
  const int alpha;
  Item *const items;
  int count = 0;

  // The coverage of display pixel (x, y) is mask[start + x * step_x + y * step_y].
  void add(Rect r, const Color &color, int start, int step_x, int step_y) {
    int width = picture.display_width(), height = picture.display_height();
    r = {clamp_int(r.x0, 0, width), clamp_int(r.y0, 0, height), clamp_int(r.x1, 0, width),
         clamp_int(r.y1, 0, height)};
    if (r.x0 >= r.x1 || r.y0 >= r.y1) return;
    if (picture.orientation & TRANSPOSE) {
      int step = step_x;
      step_x = step_y, step_y = step;
    }
    if (picture.orientation & FLIP_X) start += (picture.width - 1) * step_x, step_x = -step_x;
    if (picture.orientation & FLIP_Y) start += (picture.height - 1) * step_y, step_y = -step_y;
    items[count++] = {picture.to_stored(r), color, alpha, start, step_x, step_y};
  }

  // The mask's first byte is full coverage.
  void fill(const Rect &r, const Color &color) { add(r, color, 0, 0, 0); }
};

int to_pixel(float v) { return (int)floorf(fminf(fmaxf(v, -FAR), FAR) + 0.5f); }

// The outer edge of a box's outline: the box to the nearest px, at least one px, half the line out.
Rect outer_edge(const Box &box, int thickness) {
  int x0 = to_pixel(box.x1), y0 = to_pixel(box.y1), half = thickness / 2;
  int x1 = max_int(to_pixel(box.x2), x0 + 1), y1 = max_int(to_pixel(box.y2), y0 + 1);
  return {x0 - half, y0 - half, x1 + half, y1 + half};
}

// Four rectangles that do not overlap.
void outline(Items &items, const Rect &r, int thickness, const Color &color) {
  int top = min_int(r.y0 + thickness, r.y1), left = min_int(r.x0 + thickness, r.x1);
  int bottom = max_int(r.y1 - thickness, top), right = max_int(r.x1 - thickness, left);
  items.fill({r.x0, r.y0, r.x1, top}, color);
  items.fill({r.x0, bottom, r.x1, r.y1}, color);
  items.fill({r.x0, top, left, bottom}, color);
  items.fill({right, top, r.x1, bottom}, color);
}

// The ground, then the letters: on the outline's top edge, or inside it where the picture ends
// above; moved into the picture as far as they fit.
void label(Items &items, const Rect &outer, int thickness, const Colors &colors, const Font &font,
           const int32_t *text, int length) {
  int across = max_int(2, font.ascent / 3), above = max_int(1, font.ascent / 6);
  int letters = 0, width = across, height = above + font.ascent + font.descent + above;
  while (letters < length && width < FAR) width += font.glyphs[text[letters++]].advance;
  width += across;

  int x = outer.x0, y = outer.y0 - height;
  if (y < 0) x = max_int(x, 0) + thickness, y = max_int(outer.y0, 0) + thickness;
  x = max_int(min_int(x, items.picture.display_width() - width), 0);
  y = max_int(min_int(y, items.picture.display_height() - height), 0);

  items.fill({x, y, x + width, y + height}, colors.fill);
  int pen = x + across, baseline = y + above + font.ascent;
  for (int i = 0; i < letters; i++) {
    const Glyph &glyph = font.glyphs[text[i]];
    int left = pen + glyph.left, top = baseline + glyph.top;
    items.add({left, top, left + glyph.width, top + glyph.height}, colors.ink,
              glyph.start - left - top * glyph.width, 1, glyph.width);
    pen += glyph.advance;
  }
}

const int SMALLEST = 4;  // px of a block's side

int divided_up(int a, int b) { return (a + b - 1) / b; }

// A region of redact, as in redact.cu.
struct Region {
  Rect inside, asked;
  int block, columns, rows, step, sums, means;
};

// How many sums and means all regions need together, and of the largest grids the columns and
// rows of blocks, and the pairs of luma rows.
struct Needed {
  int64_t sums, means, columns, rows, pairs;
};

// The region about a box's centre, rounded outwards; cut before the kernel's integers end: an
// ellipse that large is flat in the picture.
Rect asked_for(const Box &box, double grow, int far) {
  double x = ((double)box.x1 + box.x2) / 2, half_width = ((double)box.x2 - box.x1) / 2 * grow;
  double y = ((double)box.y1 + box.y2) / 2, half_height = ((double)box.y2 - box.y1) / 2 * grow;
  const auto cut = [far](double v) { return (int)fmin(fmax(v, -far), 2 * far); };
  return {cut(floor(x - half_width)), cut(floor(y - half_height)), cut(ceil(x + half_width)),
          cut(ceil(y + half_height))};
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// Items of outlined boxes with their labels; returns how many there are, at most 4 for each box
// and one for each number of `text`. Earlier boxes come last and so lie on top, and every label
// after every box. text: of each box the numbers of its label's glyphs, then how many they are;
// null: no labels. width, height, orientation: of the stored picture.
EXPORT int32_t overlay_items(const Box *boxes, const Colors *colors, int32_t count,
                             const int32_t *text, int32_t text_length, const Glyph *glyphs,
                             int32_t ascent, int32_t descent, int32_t width, int32_t height,
                             int32_t orientation, int32_t thickness, int32_t alpha, Item *out) {
  const Font font = {glyphs, ascent, descent};
  Items items = {{width, height, orientation}, alpha, out};
  for (int k = count - 1; k >= 0; k--)
    if (boxes[k].drawable()) outline(items, outer_edge(boxes[k], thickness), thickness, colors[k].fill);
  const int32_t *end = text + text_length;
  for (int k = count - 1; text && k >= 0; k--) {
    int length = *--end;
    end -= length;
    if (length && boxes[k].drawable())
      label(items, outer_edge(boxes[k], thickness), thickness, colors[k], font, end, length);
  }
  return items.count;
}

// Regions of the boxes, scaled by `grow`, that touch the picture; returns how many there are. At
// most `cells` blocks along the longer side of each. width, height, orientation: of the stored
// picture.
EXPORT int32_t redact_regions(const Box *boxes, int32_t count, double grow, int32_t cells,
                              int32_t width, int32_t height, int32_t orientation, Region *regions,
                              Needed *needed) {
  const Picture picture = {width, height, orientation};
  const int far = max_int(max_int(width, height), 1 << 14);
  int kept = 0;
  *needed = {};
  for (int k = 0; k < count; k++) {
    if (!boxes[k].drawable()) continue;
    Rect asked = picture.to_stored(asked_for(boxes[k], grow, far));
    Rect inside = {clamp_int(asked.x0, 0, width), clamp_int(asked.y0, 0, height),
                   clamp_int(asked.x1, 0, width), clamp_int(asked.y1, 0, height)};
    if (inside.x0 >= inside.x1 || inside.y0 >= inside.y1) continue;
    // One px more, because the grid may begin one px before the region; even, see the kernel.
    int longer = max_int(asked.x1 - asked.x0, asked.y1 - asked.y0) + 1;
    int block = max_int(divided_up(longer, cells), SMALLEST);
    block += block % 2;
    int columns = divided_up(inside.x1 - inside.x0 / 2 * 2, block);
    int rows = divided_up(inside.y1 - inside.y0 / 2 * 2, block);
    int step = (int)(((1ll << 32) + block - 1) / block);
    regions[kept++] = {inside, asked, block, columns, rows, step, (int)needed->sums,
                       (int)needed->means};
    int64_t pairs = (int64_t)rows * (block / 2);
    needed->sums += 3 * columns * pairs;
    needed->means += 3 * columns * rows;
    if (columns > needed->columns) needed->columns = columns;
    if (rows > needed->rows) needed->rows = rows;
    if (pairs > needed->pairs) needed->pairs = pairs;
  }
  return kept;
}
