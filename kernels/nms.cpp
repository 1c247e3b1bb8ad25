// Greedy non-maximum suppression, on the host for every device: after `candidates` a few
// hundred boxes are left, and what one suppresses depends on all better ones.

#include <stdint.h>

namespace {

float smaller(float a, float b) { return a < b ? a : b; }
float larger(float a, float b) { return a > b ? a : b; }

// 0 for a box that is inverted, empty or NaN: such a box overlaps nothing.
float area(const float *box) {
  return box[2] > box[0] && box[3] > box[1] ? (box[2] - box[0]) * (box[3] - box[1]) : 0.0f;
}

bool overlap(const float *a, const float *b, float iou) {
  float area_a = area(a), area_b = area(b);
  float width = smaller(a[2], b[2]) - larger(a[0], b[0]);
  float height = smaller(a[3], b[3]) - larger(a[1], b[1]);
  if (!(area_a > 0 && area_b > 0 && width > 0 && height > 0)) return false;
  float both = width * height;
  return both / (area_a + area_b - both) > iou;
}

}  // namespace

// boxes: count × (x1, y1, x2, y2), best first. keep[i] becomes 1 unless a kept better box
// of the same class overlaps box i by more than `iou`.
extern "C" __attribute__((visibility("default"))) void nms(const float *boxes, const int32_t *classes,
                                                           int32_t count, float iou, uint8_t *keep) {
  for (int i = 0; i < count; i++) keep[i] = 1;
  for (int i = 0; i < count; i++) {
    if (!keep[i]) continue;
    for (int j = i + 1; j < count; j++) {
      if (keep[j] && classes[j] == classes[i] && overlap(boxes + 4 * i, boxes + 4 * j, iou)) keep[j] = 0;
    }
  }
}
