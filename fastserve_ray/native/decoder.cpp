// One layer of a Llama-like decoder, in two calls with attention between them: RMS norm, queries, keys and values in one
// go, rotation, and the write to the paged cache; then the output projection, norm, and the gated MLP. And attention of
// rows that read one token each, over the cache's slots in place.
//
// One translation unit with the products of linears.cpp. A row's bits depend on no other row. What is small is done by
// the calling thread, since waking the others costs a microsecond or two.

#include "linears.cpp"

#include <memory>

namespace {

#if defined(__AVX512F__)

INLINE Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
INLINE Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
INLINE Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
INLINE Floats round(Floats value) { return _mm512_roundscale_ps(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE Floats times_power_of_two(Floats value, Floats power) { return _mm512_scalef_ps(value, power); }
INLINE float sum_of(Floats value) { return _mm512_reduce_add_ps(value); }

#else

INLINE Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
INLINE Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
INLINE Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
INLINE Floats round(Floats value) { return _mm256_round_ps(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE Floats times_power_of_two(Floats value, Floats power) {
  const Ints exponent = _mm256_add_epi32(_mm256_cvtps_epi32(power), _mm256_set1_epi32(127));
  return multiply(value, bits(_mm256_slli_epi32(exponent, 23)));
}
INLINE float sum_of(Floats value) {
  const __m128 half = _mm_add_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
  const __m128 pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
}

#endif

// e^x to one or two units in the last place, by the coefficients of Cephes' expf. What is no number stays so: the
// second operand of larger and smaller wins then.
INLINE Floats exponential(Floats x) {
  x = smaller(repeat(88.0f), larger(repeat(-87.0f), x));
  const Floats power = round(multiply(x, repeat(1.44269504088896341f)));
  const Floats rest = multiply_add(power, repeat(2.12194440e-4f), multiply_add(power, repeat(-0.693359375f), x));
  Floats sum = repeat(1.9875691500e-4f);
  for (float coefficient : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    sum = multiply_add(sum, rest, repeat(coefficient));
  sum = add(multiply_add(sum, multiply(rest, rest), rest), repeat(1.0f));
  return times_power_of_two(sum, power);
}

INLINE Floats silu(Floats x) { return divide(x, add(repeat(1.0f), exponential(multiply(x, repeat(-1.0f))))); }

// Calls use(offset, count) for each vector of `width` values; the last may be short.
template <class Use>
INLINE void for_vectors(int64_t width, Use use) {
  for (int64_t at = 0; at < width; at += kLanes) use(at, static_cast<int>(std::min<int64_t>(kLanes, width - at)));
}

INLINE Floats load_any(const float* from, int count) { return count == kLanes ? load(from) : load_some(from, count); }
INLINE void store_any(float* to, Floats value, int count) { count == kLanes ? store(to, value) : store_some(to, value, count); }

// weight * x / sqrt(mean(x^2) + epsilon); `to` may be `from`.
void rms_norm(const float* from, const float* weight, float epsilon, int64_t width, float* to) {
  Floats squares = zero();
  for_vectors(width, [&](int64_t at, int count) {
    const Floats x = load_any(from + at, count);
    squares = multiply_add(x, x, squares);
  });
  const Floats factor = repeat(1.0f / std::sqrt(sum_of(squares) / static_cast<float>(width) + epsilon));
  for_vectors(width, [&](int64_t at, int count) {
    const Floats x = multiply(load_any(from + at, count), factor);
    store_any(to + at, multiply(load_any(weight + at, count), x), count);
  });
}

void add_to(float* to, const float* from, int64_t width) {
  for_vectors(width, [&](int64_t at, int count) {
    store_any(to + at, add(load_any(to + at, count), load_any(from + at, count)), count);
  });
}

// x * cos + rotate_half(x) * sin, in place; cos and sin (width).
void rotate(float* x, const float* cos, const float* sin, int64_t width) {
  const int64_t half = width / 2;
  for_vectors(half, [&](int64_t at, int count) {
    const Floats low = load_any(x + at, count), high = load_any(x + half + at, count);
    const Floats low_part = multiply(low, load_any(cos + at, count));
    const Floats high_part = multiply(high, load_any(cos + half + at, count));
    const Floats minus = multiply(repeat(-1.0f), load_any(sin + at, count));
    store_any(x + at, multiply_add(high, minus, low_part), count);
    store_any(x + half + at, multiply_add(low, load_any(sin + half + at, count), high_part), count);
  });
}

// Memory that a thread keeps from call to call, since fresh pages cost more than what is written to them.
class Workspace {
 public:
  template <class Value>
  Value* get(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(Value)) + kCacheLine;
    if (bytes > size_) {
      memory_.reset(new char[bytes]);
      size_ = bytes;
    }
    return reinterpret_cast<Value*>((reinterpret_cast<uintptr_t>(memory_.get()) + kCacheLine - 1) / kCacheLine *
                                    kCacheLine);
  }

 private:
  std::unique_ptr<char[]> memory_;
  int64_t size_ = 0;
};

template <class Function>
void for_rows(int64_t rows, int64_t width, int threads, Function function) {
#pragma omp parallel for num_threads(threads) if (rows * width > 16384 && rows > 1)
  for (int64_t row = 0; row < rows; row++) function(row);
}

}  // namespace

extern "C" {

// A packed linear layer, as engines/torch/linears.py holds it. kind: 0 float, 1 mixed, 2 int8.
struct FsLinear {
  const void* weights;
  const float* scale;
  const int32_t* corrections;
  const float* bias;
  int64_t inputs, outputs, kind;
};

struct FsLayer {
  FsLinear query, key, value, output, gate, up, down;
  const float *input_norm, *mlp_norm;
  const float *query_norm, *key_norm;  // (head_dim), or null
  float input_epsilon, mlp_epsilon, query_epsilon, key_epsilon;
  int64_t hidden, heads, kv_heads, head_dim;
};

}  // extern "C"

namespace {

constexpr int kFloat = 0, kMixed = 1;
// Rows of the MLP in one go: their gate and up values stay near.
constexpr int64_t kMlpRows = 256;

// Runs `layers`, which have the same kind and inputs, over the same rows; `after(panel)` follows when all of them have
// made that panel (only where all have the same number of outputs).
template <class Product, class After>
void run_calls(const Call<Product>* calls, int count, int threads, bool side_by_side, After after) {
  const auto run = [](const Call<Product>& call, int64_t panel) {
    if constexpr (std::is_same_v<Product, MixedProduct>) {
      if (call.rows > kMaxRows) return run_widened_panel(call, panel);
    }
    run_panel(call, panel);
  };
  if (side_by_side) {
    for_panels(calls[0].outputs, threads, [&](int64_t panel) {
      for (int at = 0; at < count; at++) run(calls[at], panel);
      after(panel);
    });
    return;
  }
  int64_t total = 0;
  for (int at = 0; at < count; at++) total += panels_of(calls[at].outputs);
  for_panels(total * kPanel, threads, [&](int64_t panel) {
    int at = 0;
    for (; panel >= panels_of(calls[at].outputs); at++) panel -= panels_of(calls[at].outputs);
    run(calls[at], panel);
  });
}

template <class After>
void run_linears(const FsLinear* const* layers, float* const* outs, int count, const float* input, int64_t rows,
                 int threads, bool side_by_side, After after) {
  const FsLinear& first = *layers[0];
  if (first.kind == kFloat || first.kind == kMixed) {
    Call<FloatProduct> floats[3];
    Call<MixedProduct> mixed[3];
    for (int at = 0; at < count; at++) {
      const FsLinear& layer = *layers[at];
      floats[at] = {input,   layer.inputs, nullptr,  static_cast<const float*>(layer.weights), nullptr, layer.bias,
                    nullptr, outs[at],     rows,     layer.outputs,                            layer.inputs};
      mixed[at] = {input,   layer.inputs, nullptr, static_cast<const int8_t*>(layer.weights), layer.scale, layer.bias,
                   nullptr, outs[at],     rows,    layer.outputs,                             layer.inputs};
    }
    if (first.kind == kFloat) return run_calls(floats, count, threads, side_by_side, after);
    return run_calls(mixed, count, threads, side_by_side, after);
  }
  static thread_local Workspace value_memory, scale_memory;
  const int64_t steps = steps_of(first.inputs, IntProduct::kGroup), stride = steps * IntProduct::kGroup;
  IntProduct::Input* values = value_memory.get<IntProduct::Input>(rows * stride);
  float* scales = scale_memory.get<float>(rows);
  for_rows(rows, first.inputs, threads, [&](int64_t row) {
    scales[row] = quantize_row(input + row * first.inputs, first.inputs, values + row * stride, stride);
  });
  Call<IntProduct> calls[3];
  for (int at = 0; at < count; at++) {
    const FsLinear& layer = *layers[at];
    calls[at] = {values, stride,     scales,   static_cast<const int8_t*>(layer.weights), layer.scale,
                 layer.bias, layer.corrections, outs[at], rows, layer.outputs, steps};
  }
  run_calls(calls, count, threads, side_by_side, after);
}

void run_linear(const FsLinear& layer, const float* input, float* out, int64_t rows, int threads) {
  const FsLinear* layers[] = {&layer};
  run_linears(layers, &out, 1, input, rows, threads, false, [](int64_t) {});
}

// hidden += down(silu(gate(x)) * up(x)), where x is the norm of hidden.
void run_mlp(const FsLayer& layer, float* hidden, int64_t rows, int threads) {
  static thread_local Workspace norm_memory, gate_memory, up_memory;
  const int64_t width = layer.gate.outputs;
  float* normed = norm_memory.get<float>(rows * layer.hidden);
  float* gated = gate_memory.get<float>(rows * width);
  float* raised = up_memory.get<float>(rows * width);
  for_rows(rows, layer.hidden, threads, [&](int64_t row) {
    rms_norm(hidden + row * layer.hidden, layer.mlp_norm, layer.mlp_epsilon, layer.hidden, normed + row * layer.hidden);
  });
  const FsLinear* layers[] = {&layer.gate, &layer.up};
  float* outs[] = {gated, raised};
  run_linears(layers, outs, 2, normed, rows, threads, true, [&](int64_t panel) {
    const int64_t begin = panel * kPanel, columns = std::min<int64_t>(kPanel, width - begin);
    for (int64_t row = 0; row < rows; row++) {
      float *gate = gated + row * width + begin, *up = raised + row * width + begin;
      for_vectors(columns, [&](int64_t at, int count) {
        store_any(gate + at, multiply(silu(load_any(gate + at, count)), load_any(up + at, count)), count);
      });
    }
  });
  run_linear(layer.down, gated, normed, rows, threads);
  for_rows(rows, layer.hidden, threads,
           [&](int64_t row) { add_to(hidden + row * layer.hidden, normed + row * layer.hidden, layer.hidden); });
}

// One token of one sequence: kHeads query heads that share a key and value head.
template <int kHeads>
void attend(const float* query, const int64_t* slots, int64_t length, const float* keys, const float* values,
            int64_t stride, int64_t head_dim, float scaling, float* scores, float* out) {
  const int64_t row = (length + kLanes - 1) / kLanes * kLanes;
  for (int64_t at = 0; at < length; at++) {
    const float* key = keys + slots[at] * stride;
    Floats sums[kHeads];
    for (int head = 0; head < kHeads; head++) sums[head] = zero();
    for_vectors(head_dim, [&](int64_t place, int count) {
      const Floats part = load_any(key + place, count);
#pragma GCC unroll 8
      for (int head = 0; head < kHeads; head++)
        sums[head] = multiply_add(load_any(query + head * head_dim + place, count), part, sums[head]);
    });
#pragma GCC unroll 8
    for (int head = 0; head < kHeads; head++) scores[head * row + at] = sum_of(sums[head]) * scaling;
  }
  float totals[kHeads];
  for (int head = 0; head < kHeads; head++) {
    float* mine = scores + head * row;
    float largest = mine[0];
    for (int64_t at = 1; at < length; at++) largest = std::max(largest, mine[at]);
    for (int64_t at = length; at < row; at++) mine[at] = -std::numeric_limits<float>::infinity();
    Floats total = zero();
    for (int64_t at = 0; at < row; at += kLanes) {
      const int count = static_cast<int>(std::min<int64_t>(kLanes, length - at));
      store(mine + at, exponential(add(load(mine + at), repeat(-largest))));
      total = add(total, load_any(mine + at, count));
    }
    totals[head] = sum_of(total);
  }
  for_vectors(head_dim, [&](int64_t place, int count) {
    Floats sums[kHeads];
    for (int head = 0; head < kHeads; head++) sums[head] = zero();
    for (int64_t at = 0; at < length; at++) {
      const Floats part = load_any(values + slots[at] * stride + place, count);
#pragma GCC unroll 8
      for (int head = 0; head < kHeads; head++)
        sums[head] = multiply_add(repeat(scores[head * row + at]), part, sums[head]);
    }
#pragma GCC unroll 8
    for (int head = 0; head < kHeads; head++)
      store_any(out + head * head_dim + place, multiply(sums[head], repeat(1.0f / totals[head])), count);
  });
}

constexpr int kMaxHeads = 8;
using Attend = void (*)(const float*, const int64_t*, int64_t, const float*, const float*, int64_t, int64_t, float,
                        float*, float*);
constexpr Attend kAttends[kMaxHeads + 1] = {nullptr,   attend<1>, attend<2>, attend<3>, attend<4>,
                                            attend<5>, attend<6>, attend<7>, attend<8>};

}  // namespace

extern "C" {

// hidden (rows, hidden) to query (rows, heads * head_dim); keys and values go to the slots of the pools
// (slots, kv_heads, head_dim). cos and sin (rows, head_dim).
void fs_layer_in(const FsLayer* layer, const float* hidden, const float* cos, const float* sin, const int64_t* slots,
                 float* keys, float* values, float* query, int64_t rows, int threads) {
  static thread_local Workspace norm_memory, key_memory, value_memory;
  const int64_t width = layer->hidden, dim = layer->head_dim, pooled = layer->kv_heads * dim;
  float* normed = norm_memory.get<float>(rows * width);
  float* new_keys = key_memory.get<float>(rows * pooled);
  float* new_values = value_memory.get<float>(rows * pooled);
  for_rows(rows, width, threads, [&](int64_t row) {
    rms_norm(hidden + row * width, layer->input_norm, layer->input_epsilon, width, normed + row * width);
  });
  const FsLinear* layers[] = {&layer->query, &layer->key, &layer->value};
  float* outs[] = {query, new_keys, new_values};
  run_linears(layers, outs, 3, normed, rows, threads, false, [](int64_t) {});
  for_rows(rows, layer->heads * dim, threads, [&](int64_t row) {
    const auto finish = [&](float* head, const float* weight, float epsilon) {
      if (weight) rms_norm(head, weight, epsilon, dim, head);
      rotate(head, cos + row * dim, sin + row * dim, dim);
    };
    for (int64_t head = 0; head < layer->heads; head++)
      finish(query + (row * layer->heads + head) * dim, layer->query_norm, layer->query_epsilon);
    for (int64_t head = 0; head < layer->kv_heads; head++)
      finish(new_keys + row * pooled + head * dim, layer->key_norm, layer->key_epsilon);
    std::memcpy(keys + slots[row] * pooled, new_keys + row * pooled, pooled * sizeof(float));
    std::memcpy(values + slots[row] * pooled, new_values + row * pooled, pooled * sizeof(float));
  });
}

// hidden += output(attended), then the MLP, in place. attended (rows, heads * head_dim).
void fs_layer_out(const FsLayer* layer, float* hidden, const float* attended, int64_t rows, int threads) {
  static thread_local Workspace memory;
  float* projected = memory.get<float>(rows * layer->hidden);
  run_linear(layer->output, attended, projected, rows, threads);
  for_rows(rows, layer->hidden, threads, [&](int64_t row) {
    add_to(hidden + row * layer->hidden, projected + row * layer->hidden, layer->hidden);
  });
  for (int64_t row = 0; row < rows; row += kMlpRows)
    run_mlp(*layer, hidden + row * layer->hidden, std::min(kMlpRows, rows - row), threads);
}

// Rows of one token each: row r sees the slots [ends[r - 1], ends[r]) of `slots`. query and out (rows, heads, head_dim).
void fs_attend(const FsLayer* layer, const float* query, const int64_t* slots, const int64_t* ends, const float* keys,
               const float* values, float scaling, float* out, int64_t rows, int threads) {
  const int64_t dim = layer->head_dim, stride = layer->kv_heads * dim, group = layer->heads / layer->kv_heads;
  const int64_t parts = (group + kMaxHeads - 1) / kMaxHeads, tasks = rows * layer->kv_heads * parts;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (tasks > 1)
  for (int64_t task = 0; task < tasks; task++) {
    static thread_local Workspace memory;
    const int64_t row = task / (layer->kv_heads * parts), head = task / parts % layer->kv_heads, part = task % parts;
    const int64_t begin = row ? ends[row - 1] : 0, length = ends[row] - begin;
    const int64_t first = part * group / parts, count = (part + 1) * group / parts - first;
    const int64_t place = (row * layer->heads + head * group + first) * dim;
    float* scores = memory.get<float>(count * (length + kLanes));
    kAttends[count](query + place, slots + begin, length, keys + head * dim, values + head * dim, stride, dim, scaling,
                    scores, out + place);
  }
}

}  // extern "C"
