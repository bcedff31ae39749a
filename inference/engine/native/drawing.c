/* One token from one row of scores, without sorting it.
 *
 * Tokens are taken likeliest first, the lower token first among equals. A limit on their number or
 * weight is found as the weight at which it falls, by bisecting the bits of that weight: positive
 * floats are in the order of their bits. Sums are in double precision.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

#define SPAN 256 /* tokens whose weights are summed beforehand */
#define ONE 0x3F800000 /* the bits of 1, the largest weight */
#define FEW 1024 /* candidates that are not worth sifting */

typedef double f64 __attribute__((vector_size(128), aligned(8)));

/* The weights of one row, padded with zeros to whole spans, and the sum of each span. */
typedef struct {
    float *weights, *sifted;
    double *spans;
    int size, whole;
} Row;

/* How many weights there are, and what they hold. */
typedef struct {
    double mass;
    int64_t count;
} Held;

/* The likeliest tokens: those heavier than `bits` says, and `ties` of that very weight. */
typedef struct {
    int32_t bits;
    int64_t ties;
    double above, mass;
} Prefix;

inline_ float weight_of(int32_t bits) {
    float weight;
    memcpy(&weight, &bits, 4);
    return weight;
}

inline_ int32_t bits_of(float weight) {
    int32_t bits;
    memcpy(&bits, &weight, 4);
    return bits;
}

inline_ double total_of(f64 lanes) {
    double total = 0;
    for (int i = 0; i < LANES; i++) total += lanes[i];
    return total;
}

/* The likeliest token, the lowest among equals; -1 where none is allowed, or one is no number. */
static int best(const float *scores, int size) {
    f32 most = all(-INFINITY);
    i32 odd = {0};
    int i = 0, broken = 0;
    for (; i + LANES <= size; i += LANES) {
        f32 lanes = load(scores + i);
        odd |= lanes != lanes;
        most = max_(most, lanes);
    }
    float top = largest(most);
    for (; i < size; i++) {
        broken |= scores[i] != scores[i];
        top = scores[i] > top ? scores[i] : top;
    }
    if (broken || __builtin_reduce_or(odd) || !(top > -INFINITY && top < INFINITY)) return -1;
    for (i = 0; scores[i] != top; i++);
    return i;
}

/* e^((score - top) / temperature), the likeliest 1. */
static void weigh(Row *row, const float *scores, float top, float temperature) {
    f32 scale = all(1 / temperature);
    int i, size = row->size;
    for (int start = 0; start < row->whole; start += SPAN) {
        f64 held = {0};
        for (i = start; i < start + SPAN; i += LANES) {
            f32 power = all(-1e9f);
            if (i + LANES <= size) power = load(scores + i);
            else
                for (int k = 0; k < LANES && i + k < size; k++) power[k] = scores[i + k];
            power = (power - all(top)) * scale;
            f32 weight = choose(power < all(-80), all(0), exp_(power));
            store(row->weights + i, weight);
            held += __builtin_convertvector(weight, f64);
        }
        row->spans[start / SPAN] = total_of(held);
    }
}

/* Of `size` weights, a multiple of LANES, those of at least `bits`. */
static Held from(const float *weights, int size, int32_t bits) {
    f64 mass = {0};
    i32 count = {0};
    f32 least = all(weight_of(bits));
    for (int i = 0; i < size; i += LANES) {
        f32 lanes = load(weights + i);
        i32 inside = lanes >= least;
        mass += __builtin_convertvector(choose(inside, lanes, all(0)), f64);
        count -= inside;
    }
    return (Held){total_of(mass), __builtin_reduce_add(count)};
}

/* Those from `low` to below `high`, padded with zeros; how many lanes. */
static int sift(const float *weights, int size, int32_t low, int32_t high, float *into) {
    int found = 0;
    f32 least = all(weight_of(low)), most = all(weight_of(high));
    for (int i = 0; i < size; i += LANES) {
        f32 lanes = load(weights + i);
        i32 inside = (lanes >= least) & (lanes < most);
        found += compress(into + found, lanes, inside);
    }
    while (found % LANES) into[found++] = 0;
    return found;
}

typedef enum { COUNT, MASS, BEYOND } Limit;

inline_ int reaches(Held held, Limit limit, double wanted) {
    switch (limit) {
        case COUNT: return (double)held.count >= wanted;
        case MASS: return held.mass >= wanted;
        default: return held.mass > wanted;
    }
}

/* The weight at which the likeliest come to `wanted`; `least` where they never do. */
static Prefix bisect(Row *row, Limit limit, double wanted, int32_t least) {
    const float *weights = row->weights;
    int size = row->whole;
    int32_t low = least, high = ONE + 1;
    Held above = {0, 0};
    for (int step = 1; high - low > 1; step++) {
        int32_t middle = low + (high - low) / 2;
        Held held = from(weights, size, middle);
        held.mass += above.mass, held.count += above.count;
        if (reaches(held, limit, wanted)) low = middle;
        else high = middle;
        if (step % 4 || size <= FEW) continue;
        Held more = from(weights, size, high);
        above.mass += more.mass, above.count += more.count;
        size = sift(weights, size, low, high, row->sifted);
        weights = row->sifted;
    }
    Held more = from(weights, size, high);
    Held whole = from(weights, size, low);
    Prefix found = {low, whole.count - more.count, above.mass + more.mass, 0};
    double weight = weight_of(low);
    if (limit == COUNT) {
        int64_t rest = (int64_t)wanted - above.count - more.count;
        if (rest < found.ties) found.ties = rest;
    } else if (limit == MASS) {
        double rest = (wanted - found.above) / weight;
        int64_t needed = (int64_t)rest + ((double)(int64_t)rest < rest);
        if (needed < 1) needed = 1;
        if (needed < found.ties) found.ties = needed;
    }
    found.mass = found.above + (double)found.ties * weight;
    return found;
}

/* The `number`th token of that very weight. */
static int tied(const Row *row, int32_t bits, int64_t number) {
    float weight = weight_of(bits);
    int last = 0;
    for (int i = 0; i < row->whole; i += LANES) {
        i32 same = load(row->weights + i) == all(weight);
        if (!__builtin_reduce_or(same)) continue;
        for (int k = 0; k < LANES; k++)
            if (same[k]) {
                last = i + k;
                if (number-- == 0) return last;
            }
    }
    return last;
}

/* Where `share` of all weight falls: the order of tokens serves as well as any. */
static int draw_plain(const Row *row, double u) {
    double total = 0, held = 0;
    for (int span = 0; span < row->whole / SPAN; span++) total += row->spans[span];
    int last = 0;
    for (int span = 0; span < row->whole / SPAN; span++) {
        if (row->spans[span] == 0) continue;
        last = span;
        if (held + row->spans[span] > u * total) break;
        held += row->spans[span];
    }
    int token = 0;
    for (int i = last * SPAN; i < (last + 1) * SPAN; i++) {
        if (row->weights[i] == 0) continue;
        token = i;
        held += row->weights[i];
        if (held > u * total) break;
    }
    return token;
}

typedef struct {
    const int64_t *tokens;
    const float *values;
    int64_t count;
} Some;

typedef struct {
    const float *scores;
    Some set, added;        /* scores that are other ones; what is added to some */
    const uint8_t *allowed; /* [size], or none: all are */
    double top_p, u;        /* `u` in [0, 1) is all the randomness */
    int64_t top_k;
    float temperature, min_p;
} Choice;

/* The scores as they are to be drawn from; in the row's own room if they are not the model's. */
static const float *shaped(const Choice *by, Row *row) {
    if (!by->set.count && !by->added.count && !by->allowed) return by->scores;
    memcpy(row->weights, by->scores, (size_t)row->size * sizeof(float));
    for (int64_t i = 0; i < by->set.count; i++)
        row->weights[by->set.tokens[i]] = by->set.values[i];
    for (int64_t i = 0; i < by->added.count; i++)
        row->weights[by->added.tokens[i]] += by->added.values[i];
    for (int i = 0; by->allowed && i < row->size; i++)
        if (!by->allowed[i]) row->weights[i] = -INFINITY;
    return row->weights;
}

static int draw(const Choice *by, Row *row) {
    const float *scores = shaped(by, row);
    int likeliest = best(scores, row->size);
    if (likeliest < 0 || by->temperature <= 0) return likeliest;
    weigh(row, scores, scores[likeliest], by->temperature);
    int by_count = by->top_k > 0 && by->top_k < row->size;
    if (by->top_p >= 1 && !by_count && by->min_p <= 0) return draw_plain(row, by->u);
    int32_t least = bits_of(by->min_p > 1e-35f ? by->min_p : 1e-35f);
    Prefix kept = {least, row->size, 0, from(row->weights, row->whole, least).mass};
    if (by_count) kept = bisect(row, COUNT, (double)by->top_k, least);
    if (by->top_p < 1) {
        /* Tokens below this hold less than 1 - top_p together. */
        int32_t bound = bits_of((float)(0.99 * (1 - by->top_p) * kept.mass / row->size));
        if (bound < kept.bits) bound = kept.bits;
        Prefix nucleus = bisect(row, MASS, by->top_p * kept.mass, bound);
        if (nucleus.bits > kept.bits || nucleus.ties < kept.ties) kept = nucleus;
    }
    double target = by->u * kept.mass;
    Prefix at = bisect(row, BEYOND, target, kept.bits);
    int64_t number = (int64_t)((target - at.above) / weight_of(at.bits));
    int64_t ties = at.bits == kept.bits && kept.ties < at.ties ? kept.ties : at.ties;
    if (number > ties - 1) number = ties - 1;
    return tied(row, at.bits, number < 0 ? 0 : number);
}

/* A token for each of `count` rows of scores [size]; -1 where none may be drawn, or a score is no
 * number. Whether there was memory. */
int draw_tokens(int count, const Choice *choices, int size, int32_t *tokens) {
    int whole = (size + SPAN - 1) / SPAN * SPAN;
    Row row = {0, 0, 0, size, whole};
    row.weights = malloc((size_t)whole * sizeof(float));
    row.sifted = malloc((size_t)(whole + LANES) * sizeof(float));
    row.spans = malloc((size_t)(whole / SPAN) * sizeof(double));
    int enough = row.weights && row.sifted && row.spans;
    for (int i = 0; enough && i < count; i++) tokens[i] = draw(&choices[i], &row);
    free(row.weights);
    free(row.sifted);
    free(row.spans);
    return enough;
}
