/* 10_sprites.c: a game learns to recognise its sprites, and a new one on the spot.
 *
 *   10_sprites MODEL [STEPS]
 *
 * MODEL is a ViT (examples/data/vit, which has only ever seen clothes). A bot looks at pieces of the screen: sprites of
 * any size, place and brightness, with noise. It learns to tell three of them apart; then a fourth turns up, and some
 * more steps teach it that one too. The base stays as it is: what is learnt are eight rows before every layer (Visual
 * Prompt Tuning) and the output layer, 9 kilobytes. Work is done in slices of two milliseconds, between frames.
 */
#include <peft/peft.h>
#include <stdio.h>
#include <stdlib.h>

enum { SIDE = 28, KINDS = 4, BATCH = 16, MOST_FLOATS = 3 * 64 * 64 };

static const char *const names[KINDS] = {"sword", "potion", "key", "shield"};
static const char *const sprites[KINDS][8] = {
    {"......##", ".....##.", "....##..", "#..##...", "####....", ".##.....", "#.##....", "#..#...."},
    {"..####..", "...##...", "...##...", "..#..#..", ".#....#.", ".######.", ".######.", "..####.."},
    {".###....", "#...#...", "#...####", "#...#..#", ".###...#", "........", "........", "........"},
    {"########", "#..##..#", "#..##..#", "########", "#..##..#", ".#.##.#.", "..####..", "...##..."},
};

typedef struct bot {
    peft_context *context;
    peft_model *model;
    peft_image_processor *processor;
    peft_adapter *adapter;
    peft_optimizer *optimizer;
    peft_session *session;
    peft_image_info info;
    uint64_t dice;
    float planes[MOST_FLOATS], rows[BATCH * MOST_FLOATS];
    int32_t offsets[BATCH + 1], labels[BATCH];
    peft_batch batch;
    int steps, frames;
} bot;

static int roll(bot *b, int sides) {
    b->dice = b->dice * 6364136223846793005u + 1442695040888963407u;
    return (int)((b->dice >> 33) % (uint64_t)sides);
}

/* What the game would copy from the screen. */
static void draw(bot *b, int kind, uint8_t screen[SIDE * SIDE]) {
    const int size = 2 + roll(b, 2), left = roll(b, SIDE - 8 * size + 1), top = roll(b, SIDE - 8 * size + 1);
    const int light = 120 + roll(b, 130);
    for (int y = 0; y < SIDE; y++) {
        for (int x = 0; x < SIDE; x++) {
            const int col = (x - left) / size, row = (y - top) / size;
            const int inside = x >= left && y >= top && col < 8 && row < 8;
            screen[y * SIDE + x] = (uint8_t)(inside && sprites[kind][row][col] == '#' ? light : roll(b, 60));
        }
    }
}

/* A batch of the first `kinds` sprites, or of one alone. */
static peft_status look(bot *b, int kinds, int only) {
    const int64_t cols = (int64_t)b->info.channels * b->info.patch_height * b->info.patch_width;
    uint8_t screen[SIDE * SIDE];
    int32_t patches = 0;
    for (int i = 0; i < BATCH; i++) {
        int64_t height = 0, width = 0;
        b->labels[i] = only >= 0 ? only : roll(b, kinds);
        draw(b, b->labels[i], screen);
        peft_status status = peft_image_process_pixels(b->processor, screen, SIDE, SIDE, 1, NULL, b->planes,
                                                       MOST_FLOATS, &height, &width);
        if (status < 0) return status;
        patches = (int32_t)peft_image_patch_count(&b->info, height, width, NULL);
        status = peft_image_patches(b->context, &b->info, b->planes, 1, height, width, b->rows + i * patches * cols,
                                    patches * cols);
        if (status < 0) return status;
        b->offsets[i + 1] = (i + 1) * patches;
    }
    b->batch.rows = (int64_t)BATCH * patches;
    b->batch.feature_cols = cols;
    return PEFT_OK;
}

/* Steps of training; between two slices the game goes on. */
static peft_status practise(bot *b, int kinds) {
    peft_progress progress = {.struct_size = sizeof progress};
    for (int step = 0; step < b->steps; step++) {
        peft_status status = look(b, kinds, -1);
        if (status >= 0) status = peft_session_begin(b->session, &b->batch, PEFT_PASS_BOTH, 1.0f);
        while (status >= 0 && (status = peft_session_advance(b->session, 2000, &progress)) == PEFT_AGAIN)
            b->frames++; /* ... the game updates and draws here ... */
        if (status >= 0) status = peft_optimizer_step(b->optimizer, b->session, NULL);
        if (status < 0) return status;
    }
    printf("%d steps in %d frames, loss %.3f\n", b->steps, b->frames, progress.loss);
    return PEFT_OK;
}

/* Shows how often each sprite is recognised. */
static peft_status judge(bot *b) {
    float logits[BATCH * KINDS];
    int32_t answers[BATCH];
    for (int kind = 0; kind < KINDS; kind++) {
        int right = 0;
        for (int round = 0; round < 4; round++) {
            peft_status status = look(b, KINDS, kind);
            if (status >= 0)
                status = peft_session_logits(b->session, &b->batch, PEFT_LOGITS_ALL, logits, BATCH * KINDS, NULL, NULL);
            if (status < 0) return status;
            peft_argmax(logits, BATCH, KINDS, answers);
            for (int i = 0; i < BATCH; i++) right += answers[i] == kind;
        }
        printf("    %-7s %3.0f %%\n", names[kind], 100.0 * right / (4 * BATCH));
    }
    return PEFT_OK;
}

static peft_status play(bot *b, const char *path) {
    peft_model_options how;
    peft_model_options_init(&how);
    how.num_labels = KINDS; /* a new output layer; there may be room for sprites that nobody has seen yet */
    peft_status status = peft_model_load(b->context, path, &how, &b->model);
    if (status >= 0) status = peft_model_image_info(b->context, b->model, &b->info);
    if (status >= 0) status = peft_image_processor_create(b->context, b->model, NULL, &b->processor);
    const char *config = "{\"peft_type\": \"VPT\", \"deep\": true, \"num_virtual_tokens\": 8}";
    if (status >= 0) status = peft_adapter_create(b->context, b->model, config, 1, &b->adapter);
    if (status >= 0) status = peft_optimizer_create(b->context, b->adapter, NULL, &b->optimizer);
    if (status >= 0) status = peft_session_create(b->context, b->model, &b->adapter, 1, NULL, &b->session);
    if (status < 0) return status;
    peft_optimizer_set_lr(b->optimizer, 2e-2f);

    if ((status = practise(b, KINDS - 1)) < 0 || (status = judge(b)) < 0) return status;
    printf("a %s turns up\n", names[KINDS - 1]);
    if ((status = practise(b, KINDS)) < 0 || (status = judge(b)) < 0) return status;
    printf("learnt: %lld numbers\n", (long long)peft_adapter_parameter_count(b->adapter));
    return PEFT_OK;
}

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "usage: %s MODEL [STEPS]\n", argv[0]), 2;
    bot *b = calloc(1, sizeof *b);
    if (b == NULL || peft_context_create(NULL, &b->context) < 0) return free(b), 1;
    b->info.struct_size = sizeof b->info;
    b->steps = argc > 2 ? atoi(argv[2]) : 150;
    peft_batch_init(&b->batch);
    b->batch.sequences = BATCH;
    b->batch.offsets = b->offsets;
    b->batch.features = b->rows;
    b->batch.sequence_labels = b->labels;
    const peft_status status = play(b, argv[1]);
    if (status < 0) fprintf(stderr, "%s\n", peft_context_error(b->context));
    peft_session_destroy(b->session);
    peft_optimizer_destroy(b->optimizer);
    peft_adapter_destroy(b->adapter);
    peft_image_processor_destroy(b->processor);
    peft_model_destroy(b->model);
    peft_context_destroy(b->context);
    free(b);
    return status >= 0 ? 0 : 1;
}
