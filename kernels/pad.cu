// The last column and row of a picture stored twice, where its sides are odd and an encoder
// wants even ones. Chroma planes are as large either way.
#include "grid.h"

KERNEL(pad)(uint8_t *y, int y_pitch, int wide, int width, int height) {
  const int right = width % 2, below = height % 2;
  FOR_PIXELS(n, side, at, 1, 2, max_int(width, height) + 1) {
    int row = side ? height : at, column = side ? at : width;
    if (side ? !below || at >= width + right : !right || at >= height) continue;
    int value = load_sample(y, y_pitch, 1, wide, 0, min_int(row, height - 1), min_int(column, width - 1));
    store_sample(y, y_pitch, 1, wide, 0, row, column, value);
  }
}
