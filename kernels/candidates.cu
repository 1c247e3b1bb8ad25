// The first step after a detector: of its thousands of anchors, decode and keep the few
// whose best class scores at least `conf`.
//
// out, for each picture of the batch: row 0 holds the number found (int32), row 1 + k the k-th
// of them, in any order, as seven floats: anchor, class, score, x1, y1, x2, y2 (model px). Rows
// past `limit` are counted and not written, so that the caller can come again with more room.
#include "floats.h"

enum { XYXY, CXCYWH, CXCYWH_UNIT, YOLOX, CENTERFACE };  // as vidai.ops.candidates.CODINGS
enum { COLUMNS = 7 };

#ifdef __CUDACC__
FN int take_row(int *count) { return atomicAdd(count, 1); }
#else
FN int take_row(int *count) { return (*count)++; }
#endif

// Numbers in a model's output (float, or uint16_t for halves); steps in elements.
template <typename T>
struct View {
  const T *data;  // null: the model has no such output
  int anchor_step, channel_step, picture_step;
};

template <typename T>
FN View<T> of_picture(View<T> view, int n) {
  if (view.data) view.data += (int64_t)n * view.picture_step;
  return view;
}

template <typename T>
FN float at(View<T> view, int anchor, int channel) {
  return to_float(view.data[(int64_t)anchor * view.anchor_step + (int64_t)channel * view.channel_step]);
}

struct Corners {
  float x1, y1, x2, y2;
};

FN Corners around(float cx, float cy, float w, float h) {
  return {cx - w * 0.5f, cy - h * 0.5f, cx + w * 0.5f, cy + h * 0.5f};
}

template <typename T>
FN Corners decode(int coding, View<T> boxes, View<T> offsets, int anchor, int width, int height) {
  float a = at(boxes, anchor, 0), b = at(boxes, anchor, 1);
  if (coding == CENTERFACE) {  // height, width; the offset's y, x; one level of stride 4
    int across = width / 4;
    float cx = ((float)(anchor % across) + at(offsets, anchor, 1) + 0.5f) * 4.0f;
    float cy = ((float)(anchor / across) + at(offsets, anchor, 0) + 0.5f) * 4.0f;
    return around(cx, cy, exp_float(b) * 4.0f, exp_float(a) * 4.0f);
  }
  float c = at(boxes, anchor, 2), d = at(boxes, anchor, 3);
  if (coding == XYXY) return {a, b, c, d};
  if (coding == CXCYWH) return around(a, b, c, d);
  if (coding == CXCYWH_UNIT) {
    return around(a * (float)width, b * (float)height, c * (float)width, d * (float)height);
  }
  int stride = 8, across = width / 8, cells = across * (height / 8);  // YOLOX: 8, 16, 32
  while (anchor >= cells && stride < 32) {
    anchor -= cells;
    stride *= 2;
    across = width / stride;
    cells = across * (height / stride);
  }
  float s = (float)stride;
  return around((a + (float)(anchor % across)) * s, (b + (float)(anchor / across)) * s,
                exp_float(c) * s, exp_float(d) * s);
}

template <typename T>
struct Task {
  View<T> boxes, scores, objectness, offsets;
  int anchors, classes, coding, logits, width, height;
  float conf;
  int limit;
  int *out;
};

// The part of a batch that is picture n's.
template <typename T>
FN Task<T> of_picture(Task<T> task, int n) {
  task.boxes = of_picture(task.boxes, n);
  task.scores = of_picture(task.scores, n);
  task.objectness = of_picture(task.objectness, n);
  task.offsets = of_picture(task.offsets, n);
  task.out += (int64_t)n * (1 + task.limit) * COLUMNS;
  return task;
}

// A score as a probability.
template <typename T>
FN float probability(const Task<T> &task, float v) {
  return task.logits ? sigmoid(v) : v;
}

// Objectness as a probability; 1 where the model has none.
template <typename T>
FN float objectness_of(const Task<T> &task, int anchor) {
  return task.objectness.data ? probability(task, at(task.objectness, anchor, 0)) : 1.0f;
}

// Write the anchor's row if its best class, of raw value `best`, is good enough. NaN fails
// every comparison, so it is never the best and never passes.
template <typename T>
FN void keep_if_good(const Task<T> &task, int anchor, float objectness, int best_class, float best) {
  float score = objectness * probability(task, best);
  if (best_class < 0 || !(score >= task.conf) || !is_finite(best) || !is_finite(score)) return;
  Corners box = decode(task.coding, task.boxes, task.offsets, anchor, task.width, task.height);
  if (!is_finite(box.x1) || !is_finite(box.y1) || !is_finite(box.x2) || !is_finite(box.y2)) return;
  int k = take_row(task.out);
  if (k >= task.limit) return;
  float *row = (float *)task.out + (int64_t)(1 + k) * COLUMNS;
  row[0] = (float)anchor;
  row[1] = (float)best_class;
  row[2] = score;
  row[3] = box.x1;
  row[4] = box.y1;
  row[5] = box.x2;
  row[6] = box.y2;
}

#define LOWEST bits_float(0xff800000u)  // minus infinity

// One anchor; few have an objectness worth reading the classes for.
template <typename T>
FN void examine(const Task<T> &task, int anchor) {
  float objectness = objectness_of(task, anchor);
  if (!(objectness >= task.conf)) return;
  float best = LOWEST;
  int best_class = -1;
  for (int c = 0; c < task.classes; c++) {
    float v = at(task.scores, anchor, c);
    if (v > best) best = v, best_class = c;
  }
  keep_if_good(task, anchor, objectness, best_class, best);
}

#ifdef __CUDACC__

template <typename T>
FN void examine_all(const Task<T> &batch, int pictures) {
  FOR_PIXELS(n, y, x, pictures, 1, batch.anchors) { examine(of_picture(batch, n), x); }
}

#else

enum { BLOCK = 1024 };

// A host core walks memory in order: where an output lies channel by channel it goes class
// by class over a block of anchors at once, in vectors, instead of jumping for each anchor.
template <typename T>
FN void examine_block(const Task<T> &task, int first) {
  float best[BLOCK];
  int best_class[BLOCK];
  int size = min_int(BLOCK, task.anchors - first);
  for (int i = 0; i < size; i++) best[i] = LOWEST, best_class[i] = -1;
  for (int c = 0; c < task.classes; c++) {
    const T *row = task.scores.data + (int64_t)c * task.scores.channel_step + first;
    for (int i = 0; i < size; i++) {
      float v = to_float(row[i]);
      int better = -(v > best[i]);  // a mask: for ?: g++ makes masked stores, which are slow
      best_class[i] = (c & better) | (best_class[i] & ~better);
      best[i] = v > best[i] ? v : best[i];
    }
  }
  for (int i = 0; i < size; i++) {
    keep_if_good(task, first + i, 1.0f, best_class[i], best[i]);
  }
}

template <typename T>
FN void examine_all(const Task<T> &batch, int pictures) {
  for (int n = 0; n < pictures; n++) {
    const Task<T> task = of_picture(batch, n);
    if (task.scores.anchor_step == 1 && !task.objectness.data) {
      for (int first = 0; first < task.anchors; first += BLOCK) examine_block(task, first);
    } else {
      for (int anchor = 0; anchor < task.anchors; anchor++) examine(task, anchor);
    }
  }
}

#endif

KERNEL(candidates_begin)(int *out, int pictures, int limit) {
  FOR_PIXELS(n, y, x, 1, 1, pictures) out[(int64_t)x * (1 + limit) * COLUMNS] = 0;
}

#define CANDIDATES(name, T)                                                                    \
  KERNEL(name)                                                                                 \
  (const T *boxes, int boxes_start, int boxes_anchor, int boxes_channel, int boxes_picture,    \
   const T *scores, int scores_start, int scores_anchor, int scores_channel,                   \
   int scores_picture, const T *objectness, int objectness_start, int objectness_anchor,       \
   int objectness_channel, int objectness_picture, const T *offsets, int offsets_start,        \
   int offsets_anchor, int offsets_channel, int offsets_picture, int pictures, int anchors,    \
   int classes, int coding, int logits, int width, int height, float conf, int limit,          \
   int *out) {                                                                                 \
    Task<T> task = {                                                                           \
        {boxes + boxes_start, boxes_anchor, boxes_channel, boxes_picture},                     \
        {scores + scores_start, scores_anchor, scores_channel, scores_picture},                \
        {objectness + objectness_start, objectness_anchor, objectness_channel,                 \
         objectness_picture},                                                                  \
        {offsets + offsets_start, offsets_anchor, offsets_channel, offsets_picture},           \
        anchors, classes, coding, logits, width, height, conf, limit, out};                    \
    examine_all(task, pictures);                                                               \
  }

CANDIDATES(candidates, float)
CANDIDATES(candidates_half, uint16_t)
