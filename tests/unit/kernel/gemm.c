/* Dense products: every variant, every stored type, odd shapes, against sums in double precision. */
#include "kernel/gemm.h"

#include "base/base.h"
#include "base/half.h"
#include "check.h"
#include "kernel/gemv.h"
#include "kernel/widen.h"

static peft_context *ctx;
static peft__rng rng;

static int64_t below(int64_t bound) {
    return (int64_t)peft__rng_below(&rng, (uint64_t)bound);
}
static float number(void) {
    return peft__rng_uniform(&rng) * 2.0f - 1.0f;
}

/* A stored matrix with its logical numbers, [rows, cols]. */
typedef struct sample {
    peft__matrix matrix;
    uint8_t *bytes;
    float *logical;
} sample;

/* A stored row of random numbers; of types that nothing here writes, random bytes with small scales. */
static void fill_row(peft_dtype dtype, int64_t count, uint8_t *row) {
    static const struct {
        peft_dtype dtype;
        int scale, minimum;
    } blocks[] = {
        {PEFT_DTYPE_Q2_K, 80, 82}, {PEFT_DTYPE_Q3_K, 108, -1}, {PEFT_DTYPE_Q4_K, 0, 2},
        {PEFT_DTYPE_Q5_K, 0, 2},   {PEFT_DTYPE_Q6_K, 208, -1},
    };
    float values[2048];
    for (int64_t c = 0; c < count; c++) values[c] = number();
    for (size_t i = 0; i < PEFT_COUNT(blocks); i++) {
        if (blocks[i].dtype != dtype) continue;
        const size_t bytes = peft__dtype_block_bytes(dtype);
        for (int64_t b = 0; b < count / peft__dtype_block(dtype); b++, row += bytes) {
            for (size_t j = 0; j < bytes; j++) row[j] = (uint8_t)below(256);
            const uint16_t scale = peft__f32_to_f16(number() * 1e-3f), minimum = peft__f32_to_f16(number() * 1e-3f);
            memcpy(row + blocks[i].scale, &scale, 2);
            if (blocks[i].minimum >= 0) memcpy(row + blocks[i].minimum, &minimum, 2);
        }
        return;
    }
    if (dtype == PEFT_DTYPE_F64)
        for (int64_t c = 0; c < count; c++) {
            const double value = (double)values[c] / 3.0;
            memcpy(row + 8 * c, &value, 8);
        }
    else
        CHECK_OK(ctx, peft__quantize(ctx, dtype, values, count, row));
}

static sample make(peft_dtype dtype, int64_t rows, int64_t cols, bool transposed, int32_t interleave) {
    sample s;
    const int64_t stored_rows = transposed ? cols : rows, stored_cols = transposed ? rows : cols;
    size_t row_bytes = 0;
    CHECK(peft__dtype_row_bytes(dtype, stored_cols, &row_bytes));
    const size_t stride = row_bytes + (dtype == PEFT_DTYPE_F32 ? 12 : 6); /* rows need not follow one another */
    s.matrix = (peft__matrix){NULL, dtype, interleave, rows, cols, stride, transposed};
    s.bytes = malloc(stride * (size_t)stored_rows + 1);
    s.logical = malloc((size_t)(rows * cols) * sizeof(float));
    float *values = malloc((size_t)stored_cols * sizeof(float));
    s.matrix.data = s.bytes + (dtype == PEFT_DTYPE_F32 ? 0 : 1); /* files promise no alignment */
    if (dtype == PEFT_DTYPE_F32) s.matrix.data = s.bytes;
    for (int64_t r = 0; r < stored_rows; r++) {
        uint8_t *row = (uint8_t *)peft__matrix_row(&s.matrix, r);
        fill_row(dtype, stored_cols, row);
        peft__dequantize(dtype, row, stored_cols, values);
        for (int64_t c = 0; c < stored_cols; c++) s.logical[transposed ? c * cols + r : r * cols + c] = values[c];
    }
    free(values);
    return s;
}

static void drop(sample *s) {
    free(s->bytes);
    free(s->logical);
}

static float *random_rows(int64_t rows, int64_t ld) {
    float *x = malloc((size_t)(rows * ld + 1) * sizeof(float));
    for (int64_t i = 0; i < rows * ld; i++) x[i] = number();
    return x;
}

/* Largest difference to the double sums, as a share of what rounding may do at this depth. */
static double difference(const float *got, int64_t ldc, const float *x, int64_t ldx, const float *w, int64_t w_row,
                         int64_t w_col, const float *before, int64_t rows, int64_t features, int64_t depth) {
    double worst = 0.0;
    for (int64_t t = 0; t < rows; t++)
        for (int64_t f = 0; f < features; f++) {
            double sum = before != NULL ? (double)before[t * ldc + f] : 0.0;
            for (int64_t k = 0; k < depth; k++) sum += (double)x[t * ldx + k] * (double)w[f * w_row + k * w_col];
            worst = fmax(worst, fabs((double)got[t * ldc + f] - sum) / (1e-6 * (4.0 + (double)depth)));
        }
    return worst;
}

/* One product by its parts. `turned`: features are the columns of the matrix (dX = dY W); else its rows. */
static void product(const peft__gemm *gemm, const sample *s, bool turned, int64_t rows, float beta, bool columns_of_x) {
    const int64_t features = turned ? s->matrix.cols : s->matrix.rows, depth = turned ? s->matrix.rows : s->matrix.cols;
    const int64_t ldx = depth + below(4), ldc = features + below(5), ldt = rows + below(3);
    float *x = random_rows(rows, ldx), *c = random_rows(rows, ldc),
          *before = malloc((size_t)(rows * ldc) * sizeof(float));
    float *turned_x = random_rows(depth, ldt);
    for (int64_t t = 0; t < rows; t++)
        for (int64_t k = 0; k < depth; k++) turned_x[k * ldt + t] = x[t * ldx + k];
    memcpy(before, c, (size_t)(rows * ldc) * sizeof(float));
    if (beta == 0.0f)
        for (int64_t t = 0; t < rows; t++)
            for (int64_t f = 0; f < features; f++) c[t * ldc + f] = NAN; /* must not be read */
    float *tokens = aligned_alloc(64, (peft__gemm_token_floats(rows, depth) * sizeof(float) + 63) / 64 * 64);
    float *panels = aligned_alloc(64, (peft__gemm_feature_floats(features, depth) * sizeof(float) + 63) / 64 * 64);
    float *scratch = aligned_alloc(64, peft__gemm_pack_scratch() * sizeof(float));
    if (columns_of_x)
        peft__gemm_pack_tokens_t(gemm, turned_x, ldt, rows, depth, tokens);
    else
        peft__gemm_pack_tokens(gemm, x, ldx, rows, depth, tokens);
    for (int64_t k0 = 0, piece; k0 < depth; k0 += piece) {
        piece = peft__gemm_depth(depth, k0);
        if (turned)
            peft__gemm_pack_features_t(gemm, &s->matrix, 0, features, k0, piece, scratch, panels);
        else
            peft__gemm_pack_features(gemm, &s->matrix, 0, features, k0, piece, scratch, panels);
        peft__gemm_sweep(gemm, panels, features, tokens + k0 * gemm->tokens, depth * gemm->tokens, rows, piece,
                         k0 > 0 ? 1.0f : beta, c, ldc);
    }
    const double worst = difference(c, ldc, x, ldx, s->logical, turned ? 1 : s->matrix.cols,
                                    turned ? s->matrix.cols : 1, beta != 0.0f ? before : NULL, rows, features, depth);
    if (!CHECK(worst <= 1.0))
        fprintf(stderr, "    cpu %u dtype %s rows %d matrix [%d, %d] turned %d transposed %d beta %g: %g\n", gemm->cpu,
                peft_dtype_name(s->matrix.dtype), (int)rows, (int)s->matrix.rows, (int)s->matrix.cols, turned,
                s->matrix.transposed, (double)beta, worst);
    /* What lies between the rows of C is not ours. */
    int outside = 0;
    for (int64_t t = 0; t < rows; t++)
        for (int64_t f = features; f < ldc; f++)
            outside += memcmp(&c[t * ldc + f], &before[t * ldc + f], sizeof(float)) != 0;
    CHECK(outside == 0);
    free(x), free(c), free(before), free(turned_x), free(tokens), free(panels), free(scratch);
}

static void few_rows(uint32_t cpu, const sample *s, int64_t rows) {
    const int64_t ldx = s->matrix.cols + 3, r0 = below(s->matrix.rows), r1 = r0 + 1 + below(s->matrix.rows - r0),
                  ldy = r1 - r0 + 2;
    float *x = random_rows(rows, ldx), *y = random_rows(rows, ldy);
    peft__gemv(cpu, &s->matrix, r0, r1, x, ldx, rows, y, ldy);
    CHECK(difference(y, ldy, x, ldx, s->logical + r0 * s->matrix.cols, s->matrix.cols, 1, NULL, rows, r1 - r0,
                     s->matrix.cols) <= 1.0);
    free(x), free(y);
}

static const peft_dtype all_types[] = {
    PEFT_DTYPE_F32,  PEFT_DTYPE_F16,  PEFT_DTYPE_BF16, PEFT_DTYPE_F64,  PEFT_DTYPE_Q8_0,
    PEFT_DTYPE_Q4_0, PEFT_DTYPE_Q4_1, PEFT_DTYPE_Q5_0, PEFT_DTYPE_Q5_1, PEFT_DTYPE_Q2_K,
    PEFT_DTYPE_Q3_K, PEFT_DTYPE_Q4_K, PEFT_DTYPE_Q5_K, PEFT_DTYPE_Q6_K,
};

static void widening(uint32_t cpu) {
    for (size_t i = 0; i < PEFT_COUNT(all_types); i++) {
        const int64_t cols = 3 * peft__dtype_block(all_types[i]) + (peft__dtype_block(all_types[i]) == 1 ? 101 : 512);
        sample s = make(all_types[i], 3, cols, false, 0);
        float *out = malloc((size_t)(cols + 1) * sizeof(float));
        for (int round = 0; round < 60; round++) {
            const int64_t row = below(3), first = round == 0 ? 0 : below(cols),
                          count = round == 0 ? cols : below(cols - first + 1);
            out[count] = 42.0f;
            peft__widen(cpu, all_types[i], peft__matrix_row(&s.matrix, row), first, count, out);
            if (!CHECK(memcmp(out, s.logical + row * cols + first, (size_t)count * sizeof(float)) == 0 &&
                       out[count] == 42.0f))
                fprintf(stderr, "    %s cpu %u first %d count %d\n", peft_dtype_name(all_types[i]), cpu, (int)first,
                        (int)count);
        }
        free(out);
        drop(&s);
    }
}

int main(void) {
    CHECK_OK(NULL, peft_context_create(NULL, &ctx));
    rng = peft__rng_make(7, 1);
    const uint32_t best = peft__cpu_detect();
    static const int64_t sizes[] = {1, 3, 5, 17, 31, 33, 64, 100};
    for (uint32_t cpu = PEFT_CPU_GENERIC; cpu <= best; cpu++) {
        for (int own = 0; own < 2; own++) {
            for (size_t a = 0; a < PEFT_COUNT(sizes); a++)
                for (size_t b = 0; b < PEFT_COUNT(sizes); b++) {
                    const int64_t rows = sizes[below((int64_t)PEFT_COUNT(sizes))];
                    const peft__gemm gemm = own ? peft__gemm_own(cpu) : peft__gemm_for(cpu, rows);
                    for (int kind = 0; kind < 4; kind++) {
                        sample s = make(PEFT_DTYPE_F32, sizes[a], sizes[b], kind & 1, 0);
                        product(&gemm, &s, kind & 2, rows, (float)below(2), below(2));
                        drop(&s);
                    }
                }
            /* Deeper than one piece, wider than one tile, for every type. */
            for (size_t i = 0; i < PEFT_COUNT(all_types); i++) {
                const int64_t block = peft__dtype_block(all_types[i]);
                const int64_t cols = block == 1 ? 391 + below(50) : peft__ceil_div(448, block) * block;
                const peft__gemm gemm = own ? peft__gemm_own(cpu) : peft__gemm_for(cpu, 29);
                sample plain = make(all_types[i], 67, cols, false, 0),
                       heads = make(all_types[i], 3 * 16, cols, false, 16);
                product(&gemm, &plain, false, 29, 1.0f, false);
                product(&gemm, &plain, true, 29, 0.0f, true);
                product(&gemm, &heads, false, 13, 0.0f, false);
                product(&gemm, &heads, true, 7, 1.0f, false);
                for (int64_t rows = 1; rows <= PEFT__GEMV_ROWS && !own; rows++)
                    few_rows(cpu, rows % 2 ? &plain : &heads, rows);
                drop(&plain);
                drop(&heads);
                if (block == 1) {
                    sample turned = make(all_types[i], 600, 45, true, 0);
                    product(&gemm, &turned, false, 30, 0.0f, false);
                    product(&gemm, &turned, true, 30, 0.0f, false);
                    few_rows(cpu, &turned, 3);
                    drop(&turned);
                }
            }
            for (int round = 0; round < 60; round++) {
                const int64_t rows = 1 + below(80);
                const peft__gemm gemm = own ? peft__gemm_own(cpu) : peft__gemm_for(cpu, rows);
                sample s = make(PEFT_DTYPE_F32, 1 + below(120), 1 + below(450), below(2), 0);
                product(&gemm, &s, below(2), rows, (float)below(2), below(2));
                drop(&s);
            }
        }
        widening(cpu);
    }
    /* Pieces cover the depth, in steps that suit stored blocks. */
    for (int64_t k = 1; k < 3000; k += 37) {
        int64_t k0 = 0;
        while (k0 < k) {
            const int64_t piece = peft__gemm_depth(k, k0);
            if (!CHECK(piece > 0 && piece <= PEFT__GEMM_DEPTH && (k0 + piece == k || piece % 32 == 0))) break;
            k0 += piece;
        }
        CHECK(k0 == k);
    }
    peft_context_destroy(ctx);
    return check_summary();
}
