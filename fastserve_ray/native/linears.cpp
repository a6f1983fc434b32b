// Linear layers for inference: y = x * W^T (+ bias), W kept in panels of output channels.
//
// Every output is one chain of fused multiply-adds over k = 0, 1, 2, ... whatever the number of rows, the tile it falls
// in or the thread that makes it, so a row has the same bits alone and among others. (The int8 product adds integers,
// whose order does not matter.) Weights stream from memory once a call: for a block of k, all tiles of rows pass over
// weights that are in the L1 cache, and the next block is fetched meanwhile.
//
// One file for all levels of x86: compiled with -mavx2 -mfma, with AVX-512, or with AVX-512 and VNNI. No library but
// OpenMP, whose functions come from the runtime that torch has loaded. Called through ctypes (native/library.py).

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#define INLINE inline __attribute__((always_inline))

namespace {

#if defined(__AVX512F__)

using Floats = __m512;
using Ints = __m512i;
constexpr int kLanes = 16;
constexpr int kMaxRows = 12;

INLINE Floats zero() { return _mm512_setzero_ps(); }
INLINE Floats load(const float* from) { return _mm512_loadu_ps(from); }
INLINE void store(float* to, Floats value) { _mm512_storeu_ps(to, value); }
INLINE Floats load_some(const float* from, int count) { return _mm512_maskz_loadu_ps((1u << count) - 1, from); }
INLINE void store_some(float* to, Floats value, int count) { _mm512_mask_storeu_ps(to, (1u << count) - 1, value); }
INLINE Floats repeat(float value) { return _mm512_set1_ps(value); }
INLINE Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm512_fmadd_ps(a, b, sum); }
INLINE Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
INLINE Floats widen(const int8_t* from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
INLINE Floats bits(Ints value) { return _mm512_castsi512_ps(value); }
INLINE Ints bits(Floats value) { return _mm512_castps_si512(value); }
INLINE Floats to_float(Ints value) { return _mm512_cvtepi32_ps(value); }
INLINE Ints repeat(int32_t value) { return _mm512_set1_epi32(value); }
INLINE Ints subtract(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }

#else

using Floats = __m256;
using Ints = __m256i;
constexpr int kLanes = 8;
constexpr int kMaxRows = 6;

INLINE Ints first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE Floats zero() { return _mm256_setzero_ps(); }
INLINE Floats load(const float* from) { return _mm256_loadu_ps(from); }
INLINE void store(float* to, Floats value) { _mm256_storeu_ps(to, value); }
INLINE Floats load_some(const float* from, int count) { return _mm256_maskload_ps(from, first_lanes(count)); }
INLINE void store_some(float* to, Floats value, int count) { _mm256_maskstore_ps(to, first_lanes(count), value); }
INLINE Floats repeat(float value) { return _mm256_set1_ps(value); }
INLINE Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm256_fmadd_ps(a, b, sum); }
INLINE Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
INLINE Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
INLINE Floats widen(const int8_t* from) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}
INLINE Floats bits(Ints value) { return _mm256_castsi256_ps(value); }
INLINE Ints bits(Floats value) { return _mm256_castps_si256(value); }
INLINE Floats to_float(Ints value) { return _mm256_cvtepi32_ps(value); }
INLINE Ints repeat(int32_t value) { return _mm256_set1_epi32(value); }
INLINE Ints subtract(Ints a, Ints b) { return _mm256_sub_epi32(a, b); }

#endif

constexpr int kVectors = 2;
constexpr int kPanel = kLanes * kVectors;
// Weights of a block of k: a third to a half of the L1 cache.
constexpr int64_t kBlockBytes = 16 * 1024;
constexpr int kCacheLine = 64;
// So many steps of k before weights are used they are asked for: some 400 cycles at 12 rows.
constexpr int64_t kStepsAhead = 48;

// The three products. Each says how a step of k is stored and multiplied; kGroup values of k lie side by side.

struct FloatProduct {
  using Input = float;
  using Weight = float;
  using Sum = Floats;
  static constexpr int kGroup = 1;
  static INLINE Sum nothing() { return zero(); }
  static INLINE Floats weight(const Weight* from) { return load(from); }
  static INLINE Floats input(const Input* from) { return repeat(*from); }
  static INLINE Sum step(Sum sum, Floats input, Floats weight) { return multiply_add(input, weight, sum); }
  static INLINE Floats finish(Sum sum, float, const int32_t*) { return sum; }
};

struct MixedProduct : FloatProduct {
  using Weight = int8_t;
  static INLINE Floats weight(const Weight* from) { return widen(from); }
};

#if defined(__AVX512VNNI__)

// The instruction multiplies unsigned by signed: inputs are stored with 128 added, and 128 * (sum of the channel's
// weights) is taken off at the end.
struct IntProduct {
  using Input = uint8_t;
  using Weight = int8_t;
  using Sum = Ints;
  static constexpr int kGroup = 4;
  static constexpr int kOffset = 128;
  static INLINE Sum nothing() { return _mm512_setzero_si512(); }
  static INLINE Ints weight(const Weight* from) { return _mm512_loadu_si512(from); }
  static INLINE Ints input(const Input* from) { return repeat(*reinterpret_cast<const int32_t*>(from)); }
  static INLINE Sum step(Sum sum, Ints input, Ints weight) { return _mm512_dpbusd_epi32(sum, input, weight); }
  static INLINE Floats finish(Sum sum, float scale, const int32_t* corrections) {
    return multiply(to_float(subtract(sum, _mm512_loadu_si512(corrections))), repeat(scale));
  }
};

#else

// Pairs of 16-bit products, which add up exactly in 32 bits (the 8-bit instruction without VNNI saturates).
struct IntProduct {
  using Input = int16_t;
  using Weight = int8_t;
  using Sum = Ints;
  static constexpr int kGroup = 2;
  static constexpr int kOffset = 0;
  static INLINE Ints input(const Input* from) { return repeat(*reinterpret_cast<const int32_t*>(from)); }
#if defined(__AVX512F__)
  static INLINE Sum nothing() { return _mm512_setzero_si512(); }
  static INLINE Ints weight(const Weight* from) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static INLINE Sum step(Sum sum, Ints input, Ints weight) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(input, weight));
  }
#else
  static INLINE Sum nothing() { return _mm256_setzero_si256(); }
  static INLINE Ints weight(const Weight* from) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static INLINE Sum step(Sum sum, Ints input, Ints weight) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(input, weight));
  }
#endif
  static INLINE Floats finish(Sum sum, float scale, const int32_t*) { return multiply(to_float(sum), repeat(scale)); }
};

#endif

INLINE Floats as_floats(Floats value) { return value; }
INLINE Floats as_floats(Ints value) { return bits(value); }
INLINE void from_floats(Floats value, Floats& to) { to = value; }
INLINE void from_floats(Floats value, Ints& to) { to = bits(value); }

// What a tile needs to know of its panel: the outputs it writes and how they end.
struct PanelEnd {
  int columns;                 // outputs of this panel, less than kPanel in the last one
  const float* scale;          // of the panel's channels, or null
  const float* bias;           // or null
  const int32_t* corrections;  // or null
};

// One block of k for kRows rows and one panel. Sums of the blocks before are read from `out` and left there.
template <class Product, int kRows>
void tile(const typename Product::Input* input, int64_t input_stride, const float* input_scales,
          const typename Product::Weight* weights, int64_t steps, float* out, int64_t out_stride, const PanelEnd& end,
          bool is_first, bool is_last, const char* fetch, int64_t fetch_bytes) {
  constexpr int kStep = Product::kGroup;
  typename Product::Sum sums[kRows][kVectors];
  const int columns[kVectors] = {std::min(end.columns, kLanes), std::max(end.columns - kLanes, 0)};
#pragma GCC unroll 12
  for (int row = 0; row < kRows; row++)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; v++) {
      sums[row][v] = Product::nothing();
      if (!is_first) from_floats(load_some(out + row * out_stride + v * kLanes, columns[v]), sums[row][v]);
    }
  for (int64_t step = 0; step < steps; step++) {
    if (fetch_bytes > 0) _mm_prefetch(fetch, _MM_HINT_T0);
    if (fetch_bytes > kCacheLine) _mm_prefetch(fetch + kCacheLine, _MM_HINT_T0);
    fetch += fetch_bytes;
    const auto w0 = Product::weight(weights), w1 = Product::weight(weights + kLanes * kStep);
    weights += kPanel * kStep;
#pragma GCC unroll 12
    for (int row = 0; row < kRows; row++) {
      const auto x = Product::input(input + row * input_stride + step * kStep);
      sums[row][0] = Product::step(sums[row][0], x, w0);
      sums[row][1] = Product::step(sums[row][1], x, w1);
    }
  }
#pragma GCC unroll 12
  for (int row = 0; row < kRows; row++)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; v++) {
      Floats value = as_floats(sums[row][v]);
      if (is_last) {
        value = Product::finish(sums[row][v], input_scales ? input_scales[row] : 1.0f, end.corrections + v * kLanes);
        if (end.scale) value = multiply(value, load_some(end.scale + v * kLanes, columns[v]));
        if (end.bias) value = add(value, load_some(end.bias + v * kLanes, columns[v]));
      }
      store_some(out + row * out_stride + v * kLanes, value, columns[v]);
    }
}

template <class Product>
using Tile = void (*)(const typename Product::Input*, int64_t, const float*, const typename Product::Weight*, int64_t,
                      float*, int64_t, const PanelEnd&, bool, bool, const char*, int64_t);

template <class Product>
constexpr Tile<Product> kTiles[] = {
    nullptr,          tile<Product, 1>, tile<Product, 2>, tile<Product, 3>, tile<Product, 4>,  tile<Product, 5>, tile<Product, 6>,
#if defined(__AVX512F__)
    tile<Product, 7>, tile<Product, 8>, tile<Product, 9>, tile<Product, 10>, tile<Product, 11>, tile<Product, 12>,
#endif
};

// One layer and its input.
template <class Product>
struct Call {
  const typename Product::Input* input;  // (rows, input_stride)
  int64_t input_stride;
  const float* input_scales;  // (rows) or null
  const typename Product::Weight* weights;
  const float* scale;          // (outputs) or null
  const float* bias;           // (outputs) or null
  const int32_t* corrections;  // (panels * kPanel) or null
  float* out;                  // (rows, outputs)
  int64_t rows, outputs, steps;

  PanelEnd end_of(int64_t panel) const {
    const int64_t first = panel * kPanel;
    return {static_cast<int>(std::min<int64_t>(kPanel, outputs - first)), scale ? scale + first : nullptr,
            bias ? bias + first : nullptr, corrections ? corrections + first : nullptr};
  }
};

// All rows of one panel, a block of k at a time. One pass of rows streams the weights and asks for them a little ahead;
// when there are more, each asks for its share of the next block, so that memory is busy during all of them.
template <class Product>
void run_panel(const Call<Product>& call, int64_t panel) {
  using Weight = typename Product::Weight;
  constexpr int64_t kStepWeights = Product::kGroup * kPanel, kStepBytes = kStepWeights * sizeof(Weight);
  const PanelEnd end = call.end_of(panel);
  const Weight* weights = call.weights + panel * call.steps * kStepWeights;
  const int64_t passes = (call.rows + kMaxRows - 1) / kMaxRows;
  const int64_t block = passes == 1 ? call.steps : kBlockBytes / kStepBytes;
  const int64_t share = passes == 1 ? kStepBytes : std::min<int64_t>(kCacheLine, kStepBytes);
  for (int64_t begin = 0; begin < call.steps; begin += block) {
    const int64_t steps = std::min(block, call.steps - begin);
    for (int64_t pass = 0; pass < passes; pass++) {
      const int64_t row = pass * call.rows / passes, rows = (pass + 1) * call.rows / passes - row;
      const int64_t ahead = passes == 1 ? kStepsAhead * kStepBytes : steps * kStepBytes + pass * steps * share;
      const bool fetches = passes == 1 || pass * share < kStepBytes;
      kTiles<Product>[rows](call.input + row * call.input_stride + begin * Product::kGroup, call.input_stride,
                            call.input_scales ? call.input_scales + row : nullptr, weights, steps,
                            call.out + row * call.outputs + panel * kPanel, call.outputs, end, begin == 0,
                            begin + steps >= call.steps, reinterpret_cast<const char*>(weights) + ahead,
                            fetches ? share : 0);
    }
    weights += steps * kStepWeights;
  }
}

// int8 weights for so many rows that widening a block once and for all of them is cheaper than once a tile.
void run_widened_panel(const Call<MixedProduct>& call, int64_t panel) {
  constexpr int64_t kBlock = kBlockBytes / (kPanel * sizeof(float));
  alignas(kCacheLine) float wide[kBlock * kPanel];
  const PanelEnd end = call.end_of(panel);
  const int8_t* weights = call.weights + panel * call.steps * kPanel;
  const int64_t passes = (call.rows + kMaxRows - 1) / kMaxRows;
  for (int64_t begin = 0; begin < call.steps; begin += kBlock) {
    const int64_t steps = std::min(kBlock, call.steps - begin);
    for (int64_t at = 0; at < steps * kPanel; at += kLanes) store(wide + at, widen(weights + at));
    weights += steps * kPanel;
    for (int64_t pass = 0; pass < passes; pass++) {
      const int64_t row = pass * call.rows / passes, rows = (pass + 1) * call.rows / passes - row;
      kTiles<FloatProduct>[rows](call.input + row * call.input_stride + begin, call.input_stride, nullptr, wide, steps,
                                 call.out + row * call.outputs + panel * kPanel, call.outputs, end, begin == 0,
                                 begin + steps >= call.steps, reinterpret_cast<const char*>(weights),
                                 pass == 0 ? kPanel : 0);
    }
  }
}

int64_t panels_of(int64_t outputs) { return (outputs + kPanel - 1) / kPanel; }
int64_t steps_of(int64_t inputs, int group) { return (inputs + group - 1) / group; }

// Panels are handed out a few at a time, so that a thread that lost its core does not hold up the others.
template <class Function>
void for_panels(int64_t outputs, int threads, Function function) {
  const int64_t panels = panels_of(outputs);
  const int64_t share = std::max<int64_t>(1, std::min<int64_t>(4, panels / (4 * threads)));
  std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(threads)
  for (int64_t first; (first = next.fetch_add(share, std::memory_order_relaxed)) < panels;)
    for (int64_t panel = first; panel < std::min(panels, first + share); panel++) function(panel);
}

// Panels from rows: to[panel][step][channel][group]; channels and inputs that are not there are zeros.
template <class Value>
void pack(const Value* from, int64_t row_stride, int64_t column_stride, int64_t outputs, int64_t inputs, int group,
          Value* to, int threads) {
  const int64_t steps = steps_of(inputs, group);
  for_panels(outputs, threads, [&](int64_t panel) {
    Value* place = to + panel * steps * group * kPanel;
    for (int64_t step = 0; step < steps; step++)
      for (int64_t channel = panel * kPanel; channel < (panel + 1) * kPanel; channel++)
        for (int64_t k = step * group; k < (step + 1) * group; k++)
          *place++ = channel < outputs && k < inputs ? from[channel * row_stride + k * column_stride] : Value(0);
  });
}

// Symmetric int8 of one row. The scale of a row with an infinity or no number is no number, and so are its outputs.
float quantize_row(const float* from, int64_t inputs, IntProduct::Input* to, int64_t stride) {
  // bits without the sign order finite numbers by size, and infinities and what is no number above all of them
  int32_t largest = 0;
  for (int64_t k = 0; k < inputs; k++) {
    int32_t size;
    std::memcpy(&size, from + k, sizeof size);
    largest = std::max(largest, size & 0x7fffffff);
  }
  std::fill(to, to + stride, IntProduct::Input(0));
  if (largest >= 0x7f800000) return std::numeric_limits<float>::quiet_NaN();
  float scale;
  std::memcpy(&scale, &largest, sizeof scale);
  scale = std::max(scale, 1e-12f) / 127.0f;
  for (int64_t k = 0; k < inputs; k++)
    to[k] = static_cast<IntProduct::Input>(static_cast<int32_t>(std::nearbyint(from[k] / scale)) + IntProduct::kOffset);
  return scale;
}

}  // namespace

extern "C" {

// Changes with every change of the functions that library.py declares.
int fs_version() { return 2; }

int64_t fs_panel() { return kPanel; }

int64_t fs_group() { return IntProduct::kGroup; }

void fs_pack_float(const float* from, int64_t row_stride, int64_t column_stride, int64_t outputs, int64_t inputs,
                   float* to, int threads) {
  pack(from, row_stride, column_stride, outputs, inputs, 1, to, threads);
}

void fs_pack_int8(const int8_t* from, int64_t outputs, int64_t inputs, int group, int8_t* to, int threads) {
  pack(from, inputs, 1, outputs, inputs, group, to, threads);
}

void fs_float(const float* input, const float* weights, const float* bias, float* out, int64_t rows, int64_t outputs,
              int64_t inputs, int threads) {
  const Call<FloatProduct> call{input, inputs, nullptr, weights, nullptr, bias, nullptr, out, rows, outputs, inputs};
  for_panels(outputs, threads, [&](int64_t panel) { run_panel(call, panel); });
}

void fs_mixed(const float* input, const int8_t* weights, const float* scale, const float* bias, float* out, int64_t rows,
              int64_t outputs, int64_t inputs, int threads) {
  const Call<MixedProduct> call{input, inputs, nullptr, weights, scale, bias, nullptr, out, rows, outputs, inputs};
  for_panels(outputs, threads, [&](int64_t panel) {
    rows > kMaxRows ? run_widened_panel(call, panel) : run_panel(call, panel);
  });
}

void fs_int8(const float* input, const int8_t* weights, const float* scale, const int32_t* corrections,
             const float* bias, float* out, int64_t rows, int64_t outputs, int64_t inputs, int threads) {
  const int64_t steps = steps_of(inputs, IntProduct::kGroup), stride = steps * IntProduct::kGroup;
  std::vector<IntProduct::Input> values(rows * stride);
  std::vector<float> scales(rows);
#pragma omp parallel for num_threads(threads) if (rows > 8)
  for (int64_t row = 0; row < rows; row++)
    scales[row] = quantize_row(input + row * inputs, inputs, values.data() + row * stride, stride);
  const Call<IntProduct> call{values.data(), stride, scales.data(), weights, scale, bias,
                              corrections,   out,    rows,          outputs, steps};
  for_panels(outputs, threads, [&](int64_t panel) { run_panel(call, panel); });
}

}  // extern "C"
