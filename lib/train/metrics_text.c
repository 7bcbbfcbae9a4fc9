/* metrics_text.c: measures of things in texts: entities and answers.
 *
 * Entities are read from tags by the rules of conlleval, which seqeval's default mode shares: an "I-" that follows
 * nothing of its type begins an entity too, so that a tagger that forgets a "B-" is judged by what it meant. Answers
 * are compared as SQuAD's own script does.
 */
#include "peft/metrics.h"

#include "base/base.h"
#include "text/unicode.h"

static double ratio(double part, double whole) {
    return whole > 0.0 ? part / whole : 0.0;
}

/* ---- entities ------------------------------------------------------------------------------------------------------
 */

/* A tag taken apart: 'O', or one of B I E S and a type. A tag without "-" is all type, inside. */
typedef struct tag {
    char mark;
    const char *type;
} tag;

static tag take_apart(const char *name) {
    if (strcmp(name, "O") == 0) return (tag){'O', ""};
    if (name[0] != '\0' && name[1] == '-') return (tag){name[0], name + 2};
    return (tag){name[0] != '\0' && name[1] == '\0' ? name[0] : 'I', name[0] != '\0' && name[1] == '\0' ? "_" : name};
}

static bool ends_before(tag last, tag next) {
    if (last.mark == 'O') return false;
    if (last.mark == 'E' || last.mark == 'S') return true;
    return next.mark == 'B' || next.mark == 'S' || next.mark == 'O' || strcmp(last.type, next.type) != 0;
}

static bool begins_at(tag last, tag next) {
    if (next.mark == 'O') return false;
    if (next.mark == 'B' || next.mark == 'S') return true;
    return last.mark == 'O' || last.mark == 'E' || last.mark == 'S' || strcmp(last.type, next.type) != 0;
}

/* Where one reading of a sequence stands: an entity is open from `begin` on. */
typedef struct reading {
    tag last;
    bool open;
    int64_t begin;
} reading;

static void count_sequence(const int32_t *labels, const int32_t *predictions, int64_t count, const char *const *names,
                           int64_t *right_tags, int64_t *tags, peft_entity_metrics *out) {
    const tag none = {'O', ""};
    reading gold = {none, false, 0}, guess = {none, false, 0};
    int64_t at = 0;
    for (int64_t i = 0; i <= count; i++) {
        if (i < count && labels[i] == PEFT_IGNORE_LABEL) continue;
        const tag a = i < count ? take_apart(names[labels[i]]) : none,
                  b = i < count ? take_apart(names[predictions[i]]) : none;
        const bool gold_ends = gold.open && ends_before(gold.last, a),
                   guess_ends = guess.open && ends_before(guess.last, b);
        out->entities += gold_ends;
        out->predicted += guess_ends;
        if (gold_ends && guess_ends && gold.begin == guess.begin && strcmp(gold.last.type, guess.last.type) == 0)
            out->correct++;
        if (gold_ends) gold.open = false;
        if (guess_ends) guess.open = false;
        if (begins_at(gold.last, a)) {
            gold.open = true;
            gold.begin = at;
        }
        if (begins_at(guess.last, b)) {
            guess.open = true;
            guess.begin = at;
        }
        gold.last = a;
        guess.last = b;
        if (i == count) break;
        at++;
        ++*tags;
        *right_tags += labels[i] == predictions[i];
    }
}

peft_status peft_metric_entities(peft_context *ctx, const int32_t *labels, const int32_t *predictions,
                                 const int32_t *offsets, int64_t sequences, const char *const *names, uint32_t classes,
                                 peft_entity_metrics *out_metrics) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (labels == NULL || predictions == NULL || offsets == NULL || names == NULL || out_metrics == NULL ||
        sequences < 1 || classes < 1)
        return peft__fail(ctx, PEFT_E_ARG,
                          "peft_metric_entities() takes labels, predictions, offsets, names and out_metrics");
    if (out_metrics->struct_size < 2 * sizeof(uint32_t))
        return peft__fail(ctx, PEFT_E_ARG, "peft_entity_metrics.struct_size is not set");
    for (uint32_t c = 0; c < classes; c++)
        if (names[c] == NULL) return peft__fail(ctx, PEFT_E_ARG, "names[%u] is missing", c);
    for (int64_t s = 0; s < sequences; s++)
        if (offsets[s] < 0 || offsets[s + 1] < offsets[s])
            return peft__fail(ctx, PEFT_E_ARG, "offsets rise, found %d after %d", offsets[s + 1], offsets[s]);
    for (int64_t i = offsets[0]; i < offsets[sequences]; i++) {
        if (labels[i] == PEFT_IGNORE_LABEL) continue;
        if (labels[i] < 0 || labels[i] >= (int32_t)classes || predictions[i] < 0 || predictions[i] >= (int32_t)classes)
            return peft__fail(ctx, PEFT_E_ARG, "element %lld has label %d and prediction %d, but there are %u classes",
                              (long long)i, labels[i], predictions[i], classes);
    }
    peft_entity_metrics found = {.struct_size = (uint32_t)sizeof found};
    int64_t right_tags = 0, tags = 0;
    for (int64_t s = 0; s < sequences; s++)
        count_sequence(labels + offsets[s], predictions + offsets[s], offsets[s + 1] - offsets[s], names, &right_tags,
                       &tags, &found);
    found.precision = ratio((double)found.correct, (double)found.predicted);
    found.recall = ratio((double)found.correct, (double)found.entities);
    found.f1 = ratio(2.0 * (double)found.correct, (double)(found.predicted + found.entities));
    found.accuracy = ratio((double)right_tags, (double)tags);
    const uint32_t size = out_metrics->struct_size;
    memcpy(out_metrics, &found, peft__min_size(size, sizeof found));
    out_metrics->struct_size = size;
    return PEFT_OK;
}

/* ---- answers
 * --------------------------------------------------------------------------------------------------------- */

static bool is_article(const char *word, size_t length) {
    return (length == 1 && word[0] == 'a') || (length == 2 && memcmp(word, "an", 2) == 0) ||
           (length == 3 && memcmp(word, "the", 3) == 0);
}

/* A text's words: each is followed by a NUL in `text`. */
typedef struct words {
    peft__buffer text;
    size_t count;
} words;

/* Lower case without ASCII punctuation: Python's str.lower and string.punctuation, which is what the script uses. */
static void fold(const char *text, peft__buffer *out) {
    const size_t length = strlen(text);
    for (size_t at = 0, bytes; at < length; at += bytes) {
        const uint32_t c = peft__char_at(text + at, length - at, &bytes);
        if (peft__is_ascii_punctuation(c)) continue;
        uint32_t lower[2];
        const size_t count = peft__lower(c, lower);
        for (size_t i = 0; i < count; i++) {
            char encoded[4];
            (void)peft__buffer_put(out, encoded, peft__utf8_encode(lower[i], encoded));
        }
    }
}

static void normalise(const char *text, peft__buffer *scratch, words *out) {
    peft__buffer_clear(scratch);
    fold(text, scratch);
    peft__buffer_clear(&out->text);
    out->count = 0;
    for (size_t at = 0, bytes; at < scratch->length;) {
        while (at < scratch->length && peft__is_space(peft__char_at(scratch->data + at, scratch->length - at, &bytes)))
            at += bytes;
        const size_t begin = at;
        while (at < scratch->length && !peft__is_space(peft__char_at(scratch->data + at, scratch->length - at, &bytes)))
            at += bytes;
        if (at == begin || is_article(scratch->data + begin, at - begin)) continue;
        (void)peft__buffer_put(&out->text, scratch->data + begin, at - begin);
        (void)peft__buffer_put(&out->text, "", 1);
        out->count++;
    }
}

/* Words in both, each as often as in the rarer; `used` has a byte for each word of b. */
static size_t common_words(const words *a, const words *b, peft__buffer *used) {
    peft__buffer_clear(used);
    for (size_t i = 0; i < b->count; i++) (void)peft__buffer_put(used, "", 1);
    if (used->failed) return 0;
    size_t common = 0;
    const char *word = a->text.data;
    for (size_t i = 0; i < a->count; i++, word += strlen(word) + 1) {
        const char *other = b->text.data;
        for (size_t j = 0; j < b->count; j++, other += strlen(other) + 1) {
            if (used->data[j] != 0 || strcmp(word, other) != 0) continue;
            used->data[j] = 1;
            common++;
            break;
        }
    }
    return common;
}

static void compare(const words *a, const words *b, peft__buffer *used, double *exact, double *f1) {
    const bool same = a->count == b->count && a->text.length == b->text.length &&
                      (a->text.length == 0 || memcmp(a->text.data, b->text.data, a->text.length) == 0);
    double score = same ? 1.0 : 0.0;
    if (a->count > 0 && b->count > 0) {
        const double common = (double)common_words(a, b, used);
        score = ratio(2.0 * common, (double)(a->count + b->count));
    }
    if (same) *exact = 1.0;
    if (score > *f1) *f1 = score;
}

enum { LONGEST_ANSWER = 65536 };

static peft_status check_text(peft_context *ctx, const char *text, const char *what) {
    if (text == NULL) return peft__fail(ctx, PEFT_E_ARG, "%s is missing", what);
    const size_t length = strlen(text);
    if (length > LONGEST_ANSWER)
        return peft__fail(ctx, PEFT_E_LIMIT, "%s has %zu bytes, at most %d are compared", what, length, LONGEST_ANSWER);
    return peft__utf8_valid(text, length) ? PEFT_OK : peft__fail(ctx, PEFT_E_FORMAT, "%s is not valid UTF-8", what);
}

peft_status peft_metric_answer(peft_context *ctx, const char *prediction, const char *const *answers,
                               uint32_t answer_count, double *out_exact, double *out_f1) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (out_exact == NULL || out_f1 == NULL || (answers == NULL && answer_count > 0))
        return peft__fail(ctx, PEFT_E_ARG, "peft_metric_answer() takes answers, out_exact and out_f1");
    PEFT_TRY(check_text(ctx, prediction, "the prediction"));
    for (uint32_t i = 0; i < answer_count; i++) PEFT_TRY(check_text(ctx, answers[i], "an answer"));
    words guess, right;
    peft__buffer scratch, used;
    peft__buffer_init(&guess.text, ctx->mem);
    peft__buffer_init(&right.text, ctx->mem);
    peft__buffer_init(&scratch, ctx->mem);
    peft__buffer_init(&used, ctx->mem);
    normalise(prediction, &scratch, &guess);
    double exact = 0.0, f1 = 0.0;
    for (uint32_t i = 0; i < (answer_count > 0 ? answer_count : 1); i++) {
        normalise(answer_count > 0 ? answers[i] : "", &scratch, &right);
        compare(&guess, &right, &used, &exact, &f1);
    }
    const bool failed = guess.text.failed || right.text.failed || scratch.failed || used.failed;
    peft__buffer_free(&guess.text);
    peft__buffer_free(&right.text);
    peft__buffer_free(&scratch);
    peft__buffer_free(&used);
    if (failed) return peft__fail_nomem(ctx, LONGEST_ANSWER, "comparing answers");
    *out_exact = exact;
    *out_f1 = f1;
    return PEFT_OK;
}
