// Greedy non-maximum suppression, on the host for every device: after `candidates` a few
// hundred boxes are left, and what one suppresses depends on all better ones.

#include <stdint.h>
#include <vector>

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

// From candidates (boxes in model px, best first) to what the picture shows: suppressed where
// `suppress`, in the picture's px, clipped to it, without what is empty then. placement: scale
// and padding on x, then on y. Returns how many are left, in the same order.
extern "C" __attribute__((visibility("default"))) int32_t
place(const float *boxes, const float *scores, const int32_t *classes, int32_t count, int32_t suppress,
      float iou, const float *placement, float width, float height, float *out_boxes,
      float *out_scores, int32_t *out_classes) {
  std::vector<uint8_t> keep(count, 1);
  if (suppress) nms(boxes, classes, count, iou, keep.data());
  int left = 0;
  for (int i = 0; i < count; i++) {
    if (!keep[i]) continue;
    float *box = out_boxes + 4 * left;
    for (int side = 0; side < 4; side++) {
      float v = (boxes[4 * i + side] - placement[2 * (side % 2) + 1]) / placement[2 * (side % 2)];
      box[side] = smaller(larger(v, 0.0f), side % 2 ? height : width);
    }
    if (!(box[2] > box[0] && box[3] > box[1])) continue;
    out_scores[left] = scores[i];
    out_classes[left] = classes[i];
    left++;
  }
  return left;
}
