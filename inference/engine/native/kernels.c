/* One forward pass of a Llama-like decoder in 8 bit, on the CPU.
 *
 * A call runs any rows together: each row is one token of one sequence, at its place in the cache
 * and its position. What a row's logits are depends on that row's tokens alone, to the last bit:
 * no sum ever runs across rows, and every sum of a row has one order, whatever else is in the call
 * and however many threads there are. So decoding in a crowd, reading a prompt in chunks of any
 * size and verifying drafts all give the bits that one token at a time gives.
 *
 * Weights are bytes around 128 in blocks of BLOCK inputs with a scale for each output; activations
 * are signed bytes with a scale for each row and block. Products of bytes are added up in 32 bits,
 * which is exact on any CPU. Keys and values are half precision. See weights.py for the layout.
 */

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vectors.h"

#define BLOCK 64
#define PAIR 2  /* tiles of LANES outputs that one kernel call makes */
#define ROWS 6  /* rows that one kernel call makes: 2 * ROWS * PAIR registers */
#define WIDE 4  /* blocks of LANES keys that are scored at once */
#define LINE 64 /* bytes */

/* ---- what Python hands over; runner.py declares the same ---- */

typedef struct {
    const uint8_t *weights; /* [tiles][inputs / BLOCK][BLOCK / 4][LANES][4] */
    const f16 *scales;      /* [tiles][inputs / BLOCK][LANES] */
    int64_t inputs, tiles;
} Linear;

typedef struct {
    const float *before, *after; /* norms of attention and of the feed-forward */
    Linear qkv, out, gate_up, down;
} Layer;

typedef struct {
    int64_t layers, hidden, heads, groups, head_size, neurons, vocabulary, context, places;
    float epsilon;
    const f16 *embedding; /* [vocabulary][hidden] */
    const float *norm;
    const float *cosines, *sines; /* [context][head_size / 2] */
    Linear head;
    const Layer *layer;
    f16 *keys;   /* [places][layers][groups][context / LANES][head_size][LANES] */
    f16 *values; /* [places][layers][groups][context][head_size] */
} Model;

/* ---- threads ---- */

/* A phase's units: which is the next to be taken, how many are done. Each carries, in its upper
 * half, the pass that it belongs to, so that a thread that lags behind finds nothing of a later one. */
typedef struct {
    _Alignas(LINE) atomic_uint_fast64_t next;
    _Alignas(LINE) atomic_uint_fast64_t done;
} Counter;

typedef struct {
    int8_t *bytes;  /* [rows][inputs] */
    float *scales;  /* [rows][inputs / BLOCK] */
    int32_t *sums;  /* [rows][inputs / BLOCK], times -128 */
} Quantized;

typedef struct {
    uint32_t number; /* never 0 */
    int rows, wanted;
    const int32_t *tokens, *places, *positions;
    const int32_t *logit_rows; /* which rows' logits are wanted */
    float *logits;             /* [wanted][tiles of the output layer * LANES] */
} Pass;

typedef enum { LINEAR, HEAD, ATTENTION_PART, REST } Part;

typedef struct {
    const Model *model;
    int threads;
    pthread_t *others;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    Pass pass;
    _Alignas(LINE) atomic_uint started; /* the number of the pass, once it is written down */
    Counter *counters;
    float *x, *y, *logits_of; /* [rows][hidden], [rows][widest] */
    float *attended;          /* [rows][heads * head_size] */
    Quantized quantized;
    float *scores; /* [threads][3][context] */
    double seconds[4]; /* by Part */
    double marked;
    int parked, stopping;
} Runner;

inline_ void relax(void) {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Wait until a phase's units are all done, whoever did them; a pass that is over counts as done. */
static void await(Runner *run, int phase, uint32_t pass, int count) {
    for (int spins = 0;; spins++) {
        uint64_t done = atomic_load_explicit(&run->counters[phase].done, memory_order_acquire);
        if ((uint32_t)(done >> 32) != pass || (uint32_t)done >= (uint32_t)count) return;
        relax();
        if (spins > 4000) sched_yield();
    }
}

/* What passed since the last mark was spent on `part`, as the first thread sees it. */
static void mark(Runner *run, int thread, Part part) {
    if (thread) return;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    run->seconds[part] += seconds - run->marked;
    run->marked = seconds;
}

/* The next `grain` of `count` units; whether there are any. */
inline_ int take(Runner *run, int phase, uint32_t pass, int grain, int count, int *from, int *to) {
    atomic_uint_fast64_t *next = &run->counters[phase].next;
    uint_fast64_t seen = atomic_load_explicit(next, memory_order_acquire);
    do {
        if ((uint32_t)(seen >> 32) != pass || (uint32_t)seen >= (uint32_t)count) return 0;
    } while (!atomic_compare_exchange_weak_explicit(next, &seen, seen + (uint64_t)grain,
                                                    memory_order_acq_rel, memory_order_acquire));
    *from = (int)(uint32_t)seen;
    *to = *from + grain < count ? *from + grain : count;
    return 1;
}

inline_ void finished(Runner *run, int phase, int units) {
    atomic_fetch_add_explicit(&run->counters[phase].done, (uint64_t)units, memory_order_acq_rel);
}

/* ---- rows ---- */

/* Bytes around 0 with a scale for each block. What is no number makes its row's scale none. */
static void quantize(const float *row, int64_t size, Quantized into, int64_t at) {
    for (int64_t block = 0; block < size / BLOCK; block++) {
        const float *from = row + block * BLOCK;
        f32 most = all(0), poison = all(0);
        for (int i = 0; i < BLOCK; i += LANES) {
            f32 x = load(from + i);
            most = max_(most, __builtin_elementwise_abs(x));
            poison += x * all(0);
        }
        float scale = largest(most) / 127, factor = scale > 0 ? 1 / scale : 0;
        if (!(factor <= 3e38f)) factor = 0;
        i32 total = {0};
        for (int i = 0; i < BLOCK; i += LANES) {
            f32 scaled = __builtin_elementwise_roundeven(load(from + i) * all(factor));
            scaled = __builtin_elementwise_min(max_(scaled, all(-127)), all(127));
            i32 whole = __builtin_convertvector(scaled, i32);
            total += whole;
            *(i8x16 *)(into.bytes + at * size + block * BLOCK + i) =
                __builtin_convertvector(whole, i8x16);
        }
        int32_t sums = 0;
        for (int i = 0; i < LANES; i++) sums += total[i];
        into.sums[at * (size / BLOCK) + block] = -128 * sums;
        into.scales[at * (size / BLOCK) + block] = scale + sum(poison);
    }
}

/* x / rms(x) * weight, straight into bytes. */
static void normalize(const Model *m, const float *x, const float *weight, Quantized into,
                      int64_t at) {
    float made[m->hidden];
    f32 squares = all(0);
    for (int64_t i = 0; i < m->hidden; i += LANES) {
        f32 part = load(x + i);
        squares = fma_(part, part, squares);
    }
    float scale = 1 / __builtin_sqrtf(sum(squares) / (float)m->hidden + m->epsilon);
    for (int64_t i = 0; i < m->hidden; i += LANES)
        store(made + i, load(x + i) * all(scale) * load(weight + i));
    quantize(made, m->hidden, into, at);
}

/* ---- linear layers ---- */

typedef f32 Made[ROWS][PAIR];

/* `count` rows from `first` by one pair of tiles. `count` is known where this is inlined. */
inline_ void multiply(const Linear *by, Quantized from, int first, int count, int pair, Made made) {
    int64_t blocks = by->inputs / BLOCK;
    const uint8_t *weights = by->weights + pair * PAIR * blocks * BLOCK * LANES;
    const f16 *scales = by->scales + pair * PAIR * blocks * LANES;
    const int8_t *bytes[ROWS];
    f32 whole[ROWS][PAIR];
    for (int r = 0; r < count; r++) {
        bytes[r] = from.bytes + (first + r) * by->inputs;
        for (int t = 0; t < PAIR; t++) whole[r][t] = all(0);
    }
    for (int64_t block = 0; block < blocks; block++) {
        i32 acc[ROWS][PAIR];
        for (int r = 0; r < count; r++)
            for (int t = 0; t < PAIR; t++)
                acc[r][t] = (i32){} + from.sums[(first + r) * blocks + block];
        const uint8_t *tile = weights + block * BLOCK * LANES;
#pragma clang loop unroll_count(4)
        for (int k = 0; k < BLOCK / 4; k++) {
            u8 w[PAIR];
            for (int t = 0; t < PAIR; t++) {
                const uint8_t *at = tile + t * blocks * BLOCK * LANES + k * 4 * LANES;
                w[t] = *(const u8 *)at;
                if (first == 0) __builtin_prefetch(at + PAIR * blocks * BLOCK * LANES, 0, 2);
            }
            for (int r = 0; r < count; r++) {
                int32_t four;
                memcpy(&four, bytes[r] + block * BLOCK + 4 * k, 4);
                for (int t = 0; t < PAIR; t++) acc[r][t] = dot4(acc[r][t], w[t], four);
            }
        }
        for (int t = 0; t < PAIR; t++) {
            f32 scale = load_half(scales + (t * blocks + block) * LANES);
            for (int r = 0; r < count; r++)
                whole[r][t] = fma_(__builtin_convertvector(acc[r][t], f32),
                                   scale * all(from.scales[(first + r) * blocks + block]),
                                   whole[r][t]);
        }
    }
    for (int r = 0; r < count; r++)
        for (int t = 0; t < PAIR; t++) made[r][t] = whole[r][t];
}

typedef enum { PLAIN, ADDED, GATED } Ending;

/* What becomes of a kernel's outputs: stored, added to what is there, or silu(gate) * up. */
inline_ void finish(Ending ending, Made made, int first, int count, int pair, float *out,
                    int64_t width) {
    for (int r = 0; r < count; r++) {
        float *row = out + (int64_t)(first + r) * width;
        if (ending == GATED) {
            f32 gate = made[r][0];
            f32 silu = gate / (all(1) + exp_(-gate));
            store(row + pair * LANES, silu * made[r][1]);
            continue;
        }
        for (int t = 0; t < PAIR; t++) {
            float *to = row + (pair * PAIR + t) * LANES;
            store(to, ending == ADDED ? load(to) + made[r][t] : made[r][t]);
        }
    }
}

#define CASE(n)                                                                  \
    case n:                                                                      \
        multiply(by, from, first, n, pair, made);                                \
        finish(ending, made, first, n, pair, out, width);                        \
        break;

/* Rows [0, rows) of `from` through a linear layer, shared among the threads by pairs of tiles. */
static void linear(Runner *run, int phase, uint32_t pass, const Linear *by, Quantized from,
                   int rows, Ending ending, float *out, int64_t width) {
    int pairs = (int)(by->tiles / PAIR), start, end;
    int grain = pairs / (run->threads * 8) > 0 ? pairs / (run->threads * 8) : 1;
    while (take(run, phase, pass, grain, pairs, &start, &end)) {
        for (int pair = start; pair < end; pair++)
            for (int first = 0; first < rows; first += ROWS) {
                Made made;
                switch (rows - first < ROWS ? rows - first : ROWS) {
                    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
                }
            }
        finished(run, phase, end - start);
    }
    await(run, phase, pass, pairs);
}

/* ---- attention ---- */

/* Turn pairs (i, i + half) by the position's angles. */
inline_ void rotate(const Model *m, const float *from, int64_t position, float factor, float *to) {
    int64_t half = m->head_size / 2;
    const float *cosines = m->cosines + position * half, *sines = m->sines + position * half;
    for (int64_t i = 0; i < half; i++) {
        float a = from[i], b = from[i + half];
        to[i] = (a * cosines[i] - b * sines[i]) * factor;
        to[i + half] = (b * cosines[i] + a * sines[i]) * factor;
    }
}

inline_ f16 *keys_of(const Model *m, int64_t place, int64_t layer, int64_t group) {
    return m->keys + ((place * m->layers + layer) * m->groups + group) * m->context * m->head_size;
}

inline_ f16 *values_of(const Model *m, int64_t place, int64_t layer, int64_t group) {
    return m->values +
           ((place * m->layers + layer) * m->groups + group) * m->context * m->head_size;
}

/* A row's key and value of one group, where they will be read. */
static void remember(const Model *m, const Pass *pass, int layer, int row, int group,
                     const float *qkv) {
    int64_t size = m->head_size, position = pass->positions[row];
    const float *key = qkv + (m->heads + group) * size, *value = key + m->groups * size;
    float turned[size];
    rotate(m, key, position, 1, turned);
    f16 *keys = keys_of(m, pass->places[row], layer, group);
    keys += position / LANES * LANES * size + position % LANES;
    for (int64_t i = 0; i < size; i++) keys[i * LANES] = (f16)turned[i];
    f16 *values = values_of(m, pass->places[row], layer, group) + position * size;
    for (int64_t i = 0; i < size; i++) values[i] = (f16)value[i];
}

/* Scores of `heads` queries [heads][size] over keys, then their softmax; the sums of the weights. */
inline_ void weigh(const f16 *keys, const float *queries, int heads, int64_t size, int64_t length,
                   float *scores, int64_t stride, float *totals) {
    f32 most[heads];
    for (int h = 0; h < heads; h++) most[h] = all(-3e38f);
    i32 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int64_t start = 0; start < length; start += WIDE * LANES) {
        const f16 *block = keys + start * size;
        f32 found[heads][WIDE];
        for (int h = 0; h < heads; h++)
            for (int b = 0; b < WIDE; b++) found[h][b] = all(0);
#pragma clang loop unroll_count(2)
        for (int64_t i = 0; i < size; i++)
            for (int b = 0; b < WIDE; b++) {
                f32 key = load_half(block + (b * size + i) * LANES);
                for (int h = 0; h < heads; h++)
                    found[h][b] = fma_(key, all(queries[h * size + i]), found[h][b]);
            }
        for (int b = 0; b < WIDE; b++) {
            i32 inside = lane < (int32_t)(length - start - b * LANES);
            for (int h = 0; h < heads; h++) {
                f32 kept = choose(inside, found[h][b], all(-3e38f));
                most[h] = max_(most[h], kept);
                store(scores + h * stride + start + b * LANES, kept);
            }
        }
    }
    for (int h = 0; h < heads; h++) {
        float *row = scores + h * stride;
        f32 top = all(largest(most[h])), total = all(0);
        for (int64_t start = 0; start < length; start += LANES) {
            f32 weight = exp_(load(row + start) - top);
            weight = choose(lane < (int32_t)(length - start), weight, all(0));
            total += weight;
            store(row + start, weight);
        }
        totals[h] = sum(total);
    }
}

/* 64 channels of `heads` weighted sums of the values. */
inline_ void mix(const f16 *values, const float *scores, int64_t stride, int heads, int64_t size,
                 int64_t from, int64_t wide, int64_t length, const float *totals, float *out) {
    f32 made[heads][4];
    for (int h = 0; h < heads; h++)
        for (int64_t c = 0; c < wide; c++) made[h][c] = all(0);
    for (int64_t at = 0; at < length; at++) {
        const f16 *row = values + at * size + from;
        for (int64_t c = 0; c < wide; c++) {
            f32 value = load_half(row + c * LANES);
            for (int h = 0; h < heads; h++)
                made[h][c] = fma_(value, all(scores[h * stride + at]), made[h][c]);
        }
    }
    for (int h = 0; h < heads; h++)
        for (int64_t c = 0; c < wide; c++)
            store(out + h * size + from + c * LANES, made[h][c] / all(totals[h]));
}

inline_ void attend_heads(const Model *m, const f16 *keys, const f16 *values, const float *queries,
                          int heads, int64_t length, float *scores, float *out) {
    float totals[heads];
    weigh(keys, queries, heads, m->head_size, length, scores, m->context, totals);
    int64_t from = 0;
    for (; from + 64 <= m->head_size; from += 64)
        mix(values, scores, m->context, heads, m->head_size, from, 4, length, totals, out);
    for (; from < m->head_size; from += LANES)
        mix(values, scores, m->context, heads, m->head_size, from, 1, length, totals, out);
}

/* One row's heads that share one group's keys and values, three or fewer at a time. */
static void attend(const Model *m, const Pass *pass, int layer, int row, int group,
                   const float *qkv, float *scores, float *out) {
    int64_t size = m->head_size, length = pass->positions[row] + 1;
    int shared = (int)(m->heads / m->groups);
    const f16 *keys = keys_of(m, pass->places[row], layer, group);
    const f16 *values = values_of(m, pass->places[row], layer, group);
    float factor = 1 / __builtin_sqrtf((float)size), queries[3 * size];
    for (int first = 0; first < shared; first += 3) {
        int count = shared - first < 3 ? shared - first : 3;
        for (int h = 0; h < count; h++)
            rotate(m, qkv + (group * shared + first + h) * size, pass->positions[row], factor,
                   queries + h * size);
        float *to = out + (group * shared + first) * size;
        switch (count) {
            case 1: attend_heads(m, keys, values, queries, 1, length, scores, to); break;
            case 2: attend_heads(m, keys, values, queries, 2, length, scores, to); break;
            case 3: attend_heads(m, keys, values, queries, 3, length, scores, to); break;
        }
    }
}

/* ---- a pass ---- */

enum { NORM, QKV, KEYS, ATTENTION, BYTES, OUT, NORM2, GATE_UP, BYTES2, DOWN, PHASES };

/* Run `body` for each unit of a phase, shared among the threads, then wait for all. */
#define EACH(phase, grain, count, unit, body)                                           \
    {                                                                                   \
        int from_, to_;                                                                 \
        while (take(run, phase, pass->number, grain, count, &from_, &to_)) {            \
            for (int unit = from_; unit < to_; unit++) body;                            \
            finished(run, phase, to_ - from_);                                          \
        }                                                                               \
        await(run, phase, pass->number, count);                                         \
    }

static void run_layer(Runner *run, const Pass *pass, int number, int thread) {
    const Model *m = run->model;
    const Layer *layer = m->layer + number;
    Quantized q = run->quantized;
    int rows = pass->rows, groups = (int)m->groups, base = number * PHASES;
    int64_t hidden = m->hidden, heads = m->heads * m->head_size;
    int64_t width = layer->qkv.tiles * LANES;
    float *scores = run->scores + thread * 3 * m->context;
    EACH(base + NORM, 1, rows, row, normalize(m, run->x + row * hidden, layer->before, q, row))
    mark(run, thread, REST);
    linear(run, base + QKV, pass->number, &layer->qkv, q, rows, PLAIN, run->y, width);
    mark(run, thread, LINEAR);
    EACH(base + KEYS, 1, rows * groups, unit,
         remember(m, pass, number, unit / groups, unit % groups, run->y + unit / groups * width))
    EACH(base + ATTENTION, 1, rows * groups, unit,
         attend(m, pass, number, unit / groups, unit % groups, run->y + unit / groups * width,
                scores, run->attended + unit / groups * heads))
    mark(run, thread, ATTENTION_PART);
    EACH(base + BYTES, 1, rows, row, quantize(run->attended + row * heads, heads, q, row))
    mark(run, thread, REST);
    linear(run, base + OUT, pass->number, &layer->out, q, rows, ADDED, run->x, hidden);
    mark(run, thread, LINEAR);
    EACH(base + NORM2, 1, rows, row, normalize(m, run->x + row * hidden, layer->after, q, row))
    mark(run, thread, REST);
    linear(run, base + GATE_UP, pass->number, &layer->gate_up, q, rows, GATED, run->y, m->neurons);
    mark(run, thread, LINEAR);
    EACH(base + BYTES2, 1, rows, row, quantize(run->y + row * m->neurons, m->neurons, q, row))
    mark(run, thread, REST);
    linear(run, base + DOWN, pass->number, &layer->down, q, rows, ADDED, run->x, hidden);
    mark(run, thread, LINEAR);
}

static void run_pass(Runner *run, const Pass *pass, int thread) {
    const Model *m = run->model;
    int base = (int)m->layers * PHASES;
    mark(run, thread, REST);
    if (!thread) memset(run->seconds, 0, sizeof run->seconds);
    EACH(base, 4, pass->rows, row, {
        const f16 *from = m->embedding + pass->tokens[row] * m->hidden;
        for (int64_t i = 0; i < m->hidden; i += LANES)
            store(run->x + row * m->hidden + i, load_half(from + i));
    })
    for (int layer = 0; layer < m->layers; layer++) run_layer(run, pass, layer, thread);
    EACH(base + 1, 1, pass->wanted, i,
         normalize(m, run->x + pass->logit_rows[i] * m->hidden, m->norm, run->quantized, i))
    mark(run, thread, REST);
    linear(run, base + 2, pass->number, &m->head, run->quantized, pass->wanted, PLAIN, pass->logits,
           m->head.tiles * LANES);
    mark(run, thread, HEAD);
}

/* ---- the threads' life ---- */

/* Help with passes. A thread that the system keeps from running is missed, not waited for. */
static void *other(void *given) {
    Runner *run = ((void **)given)[0];
    int thread = (int)(intptr_t)((void **)given)[1];
    unsigned seen = 0;
    free(given);
    for (;;) {
        for (int spins = 0; atomic_load_explicit(&run->started, memory_order_acquire) == seen;) {
            relax();
            if (++spins < 40000) continue;
            pthread_mutex_lock(&run->lock);
            run->parked++;
            while (atomic_load_explicit(&run->started, memory_order_acquire) == seen)
                pthread_cond_wait(&run->wake, &run->lock);
            run->parked--;
            pthread_mutex_unlock(&run->lock);
        }
        pthread_mutex_lock(&run->lock);
        Pass pass = run->pass;
        pthread_mutex_unlock(&run->lock);
        seen = pass.number;
        if (run->stopping) return NULL;
        run_pass(run, &pass, thread);
    }
}

static void start(Runner *run, Pass pass) {
    pthread_mutex_lock(&run->lock);
    run->pass = pass;
    atomic_store_explicit(&run->started, pass.number, memory_order_release);
    if (run->parked) pthread_cond_broadcast(&run->wake);
    pthread_mutex_unlock(&run->lock);
}

static void *room(size_t bytes) {
    void *made = NULL;
    if (posix_memalign(&made, LINE, bytes + LINE)) return NULL;
    memset(made, 0, bytes + LINE);
    return made;
}

void runner_free(Runner *run) {
    if (!run) return;
    run->stopping = 1;
    start(run, (Pass){.number = run->pass.number + 1});
    for (int i = 1; i < run->threads; i++) pthread_join(run->others[i], NULL);
    free(run->others);
    free(run->counters);
    free(run->x);
    free(run->y);
    free(run->attended);
    free(run->quantized.bytes);
    free(run->quantized.scales);
    free(run->quantized.sums);
    free(run->scores);
    free(run);
}

/* Threads and room for passes of up to `rows` rows; NULL where there is none. */
Runner *runner_new(const Model *m, int threads, int rows) {
    Runner *run = room(sizeof(Runner));
    if (!run) return NULL;
    int64_t heads = m->heads * m->head_size, widest = m->neurons > heads ? m->neurons : heads;
    if (m->hidden > widest) widest = m->hidden;
    int64_t outputs = m->layer[0].qkv.tiles * LANES;
    if (m->neurons > outputs) outputs = m->neurons;
    run->model = m;
    run->threads = 1;
    run->others = room(sizeof(pthread_t) * (size_t)threads);
    run->counters = room(sizeof(Counter) * (size_t)(m->layers + 1) * PHASES);
    run->x = room(sizeof(float) * (size_t)(rows * m->hidden));
    run->y = room(sizeof(float) * (size_t)(rows * outputs));
    run->attended = room(sizeof(float) * (size_t)(rows * heads));
    run->quantized.bytes = room((size_t)(rows * widest));
    run->quantized.scales = room(sizeof(float) * (size_t)(rows * widest / BLOCK));
    run->quantized.sums = room(sizeof(int32_t) * (size_t)(rows * widest / BLOCK));
    run->scores = room(sizeof(float) * (size_t)(threads * 3 * m->context));
    pthread_mutex_init(&run->lock, NULL);
    pthread_cond_init(&run->wake, NULL);
    if (!run->others || !run->counters || !run->x || !run->y || !run->attended ||
        !run->quantized.bytes || !run->quantized.scales || !run->quantized.sums || !run->scores) {
        runner_free(run);
        return NULL;
    }
    for (int i = 1; i < threads; i++) {
        void **given = malloc(2 * sizeof(void *));
        if (!given) break;
        given[0] = run, given[1] = (void *)(intptr_t)i;
        if (pthread_create(&run->others[i], NULL, other, given)) {
            free(given);
            break;
        }
        run->threads++;
    }
    return run;
}

/* Run `rows` rows; the logits [wanted][tiles * LANES] of those in `logit_rows`. */
void runner_run(Runner *run, int rows, const int32_t *tokens, const int32_t *places,
                const int32_t *positions, int wanted, const int32_t *logit_rows, float *logits) {
    uint32_t number = run->pass.number + 1 ? run->pass.number + 1 : 1;
    Pass pass = {number, rows, wanted, tokens, places, positions, logit_rows, logits};
    for (int i = 0; i < ((int)run->model->layers + 1) * PHASES; i++) {
        atomic_store_explicit(&run->counters[i].done, (uint64_t)number << 32, memory_order_relaxed);
        atomic_store_explicit(&run->counters[i].next, (uint64_t)number << 32, memory_order_release);
    }
    start(run, pass);
    run_pass(run, &pass, 0);
}

/* Seconds of the last pass: linear layers, output layer, attention, all else. */
void runner_seconds(const Runner *run, double *seconds) {
    memcpy(seconds, run->seconds, sizeof run->seconds);
}

/* Make the first `length` tokens of one place another's. */
void runner_copy(const Model *m, int source, int target, int length) {
    size_t keys = (size_t)((length + LANES - 1) / LANES * LANES * m->head_size) * sizeof(f16);
    size_t values = (size_t)(length * m->head_size) * sizeof(f16);
    for (int64_t layer = 0; layer < m->layers; layer++)
        for (int64_t group = 0; group < m->groups; group++) {
            memcpy(keys_of(m, target, layer, group), keys_of(m, source, layer, group), keys);
            memcpy(values_of(m, target, layer, group), values_of(m, source, layer, group), values);
        }
}
