/* adafactor.c: Adafactor with the rules of transformers (relative_step false), one tensor at a time.
 *
 * A matrix keeps the means of squared gradients by row and by column instead of one for each element; tensors of more
 * dimensions are stacks of matrices, vectors are not factored. The update of an element needs sums over the whole
 * tensor (its root mean square is clipped), so a tensor is one piece of work; tensors run side by side.
 */
#include "train/train.h"

#include <math.h>

#define EPS_SQUARE 1e-30
#define EPS_SCALE 1e-3

static double root_mean_square(const float *values, int64_t count) {
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++) sum += (double)values[i] * (double)values[i];
    return sqrt(sum / (double)count);
}

/* Moving averages of one matrix [rows, cols] of a stack. */
static void average(float *row_mean, float *col_mean, const float *grad, int64_t rows, int64_t cols, double scale,
                    double keep) {
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0.0;
        for (int64_t c = 0; c < cols; c++) {
            const double g = (double)grad[r * cols + c] * scale;
            sum += g * g + EPS_SQUARE;
        }
        row_mean[r] = (float)(keep * (double)row_mean[r] + (1.0 - keep) * sum / (double)cols);
    }
    for (int64_t c = 0; c < cols; c++) {
        double sum = 0.0;
        for (int64_t r = 0; r < rows; r++) {
            const double g = (double)grad[r * cols + c] * scale;
            sum += g * g + EPS_SQUARE;
        }
        col_mean[c] = (float)(keep * (double)col_mean[c] + (1.0 - keep) * sum / (double)rows);
    }
}

/* Factors whose product approximates 1 / sqrt of the mean square of an element. */
static void factors(const float *row_mean, const float *col_mean, int64_t rows, int64_t cols, float *out_row,
                    float *out_col) {
    double mean = 0.0;
    for (int64_t r = 0; r < rows; r++) mean += (double)row_mean[r];
    mean /= (double)rows;
    for (int64_t r = 0; r < rows; r++) out_row[r] = (float)(1.0 / sqrt((double)row_mean[r] / mean));
    for (int64_t c = 0; c < cols; c++) out_col[c] = (float)(1.0 / sqrt((double)col_mean[c]));
}

void peft__adafactor_update(const peft__adafactor *rule, const peft__param *param, const peft__moment *moment,
                            const float *grad, float *scratch) {
    const int64_t count = param->elements;
    const int64_t cols = moment->factored ? param->shape[param->ndim - 1] : 1;
    const int64_t rows = moment->factored ? param->shape[param->ndim - 2] : count;
    const int64_t stack = count / (rows * cols);
    const double keep = 1.0 - pow((double)rule->step, rule->decay_rate);

    double lr = rule->lr;
    if (rule->scale_parameter) lr *= fmax(EPS_SCALE, root_mean_square(param->data, count));

    if (moment->factored) {
        for (int64_t s = 0; s < stack; s++) {
            float *row_mean = moment->v + s * rows, *col_mean = moment->v + stack * rows + s * cols;
            average(row_mean, col_mean, grad + s * rows * cols, rows, cols, rule->grad_scale, keep);
            factors(row_mean, col_mean, rows, cols, scratch + s * rows, scratch + stack * rows + s * cols);
        }
    } else {
        for (int64_t i = 0; i < count; i++) {
            const double g = (double)grad[i] * rule->grad_scale;
            moment->v[i] = (float)(keep * (double)moment->v[i] + (1.0 - keep) * (g * g + EPS_SQUARE));
        }
    }

    /* The step of an element before clipping; computed twice rather than stored. */
    double sum = 0.0, factor = 0.0;
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < count; i++) {
            double step = (double)grad[i] * rule->grad_scale;
            if (moment->factored) {
                const int64_t s = i / (rows * cols), in = i % (rows * cols);
                step *= (double)scratch[s * rows + in / cols] * (double)scratch[stack * rows + s * cols + in % cols];
            } else {
                step /= sqrt((double)moment->v[i]);
            }
            if (pass == 0) {
                sum += step * step;
                continue;
            }
            step *= factor;
            if (moment->m != NULL) {
                step = rule->beta1 * (double)moment->m[i] + (1.0 - rule->beta1) * step;
                moment->m[i] = (float)step;
            }
            const double p = (double)param->data[i];
            const double decay = moment->decays ? rule->weight_decay * lr * p : 0.0;
            param->data[i] = (float)(p - decay - step);
        }
        factor = lr / fmax(1.0, sqrt(sum / (double)count) / rule->clip_threshold);
    }
}
