/* Stopping and going on gives the same bits as not having stopped; a checkpoint that does not fit changes nothing. */
#include <sys/stat.h>
#include <unistd.h>

#include "../../fault/world.h"

static void remove_checkpoint(const char *folder) {
    static const char *const files[] = {"checkpoint.json", "parameters.safetensors", "optimizer.safetensors",
                                        "host.json"};
    char path[4096];
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        (void)unlink(path);
    }
    CHECK(rmdir(folder) == 0);
}

static void steps(world *w, uint32_t from, uint32_t to) {
    for (uint32_t i = from; i < to; i++) {
        world_batch(w, i);
        world_step(w, NULL);
    }
}

static void resume(const char *folder) {
    world w, other;
    if (!world_open(&w, NULL)) return;
    steps(&w, 0, 3);
    CHECK_OK(w.ctx, peft_checkpoint_save(w.session, w.optimizer, folder, "{\"at\": 3}"));
    steps(&w, 3, 5);
    CHECK_OK(w.ctx, peft_checkpoint_save(w.session, w.optimizer, folder,
                                         "{\"at\": \"five \xc3\xa4\"}")); /* takes the place of the first */
    steps(&w, 5, 8);
    snapshot want = world_snapshot(&w);

    if (!world_open(&other, NULL)) return;
    steps(&other, 20, 22);
    char *text = NULL;
    CHECK_OK(other.ctx, peft_checkpoint_load(other.session, other.optimizer, folder, &text));
    CHECK_STR(text, "{\"at\": \"five \xc3\xa4\"}");
    peft_text_free(other.ctx, text);
    CHECK(peft_optimizer_steps(other.optimizer) == 5);
    CHECK_NEAR(peft_optimizer_lr(other.optimizer), 1e-2f, 0.0);
    steps(&other, 5, 8);
    CHECK(world_is(&other, &want));
    free(want.bytes);

    /* What does not fit is refused and changes nothing. */
    snapshot before = world_snapshot(&other);
    peft_optimizer *sgd = NULL;
    peft_optimizer_options options;
    peft_optimizer_options_init(&options);
    options.kind = PEFT_OPTIMIZER_SGD;
    CHECK_OK(other.ctx, peft_optimizer_create(other.ctx, other.adapter, &options, &sgd));
    CHECK_STATUS(other.ctx, peft_checkpoint_load(other.session, sgd, folder, NULL), PEFT_E_MISMATCH);
    peft_adapter *narrow = NULL;
    CHECK_OK(other.ctx, peft_adapter_create(other.ctx, other.model, "{\"peft_type\": \"LORA\", \"r\": 2}", 1, &narrow));
    peft_session *session = NULL;
    CHECK_OK(other.ctx, peft_session_create(other.ctx, other.model, &narrow, 1, NULL, &session));
    CHECK_STATUS(other.ctx, peft_checkpoint_load(session, NULL, folder, NULL), PEFT_E_MISMATCH);
    CHECK_STATUS(other.ctx, peft_checkpoint_load(other.session, other.optimizer, "/nowhere/at/all", NULL), PEFT_E_IO);

    char path[4096];
    snprintf(path, sizeof path, "%s/optimizer.safetensors", folder);
    CHECK(truncate(path, 2000) == 0);
    CHECK_STATUS(other.ctx, peft_checkpoint_load(other.session, other.optimizer, folder, NULL), PEFT_E_FORMAT);
    CHECK(unlink(path) == 0);
    CHECK_STATUS(other.ctx, peft_checkpoint_load(other.session, other.optimizer, folder, NULL), PEFT_E_IO);
    CHECK(world_is(&other, &before));
    free(before.bytes);

    /* Somebody else's folder is not replaced; neither is one that cannot be written. */
    snprintf(path, sizeof path, "%s/notes.txt", folder);
    FILE *file = fopen(path, "w");
    if (file != NULL) fclose(file);
    CHECK_STATUS(w.ctx, peft_checkpoint_save(w.session, w.optimizer, folder, NULL), PEFT_E_IO);
    CHECK(access(path, F_OK) == 0 && unlink(path) == 0);
    CHECK_STATUS(w.ctx, peft_checkpoint_save(w.session, w.optimizer, "/proc/nothing/here", NULL), PEFT_E_IO);
    CHECK_STATUS(w.ctx, peft_checkpoint_save(w.session, w.optimizer, "", NULL), PEFT_E_ARG);
    CHECK_OK(w.ctx, peft_checkpoint_save(w.session, NULL, folder, NULL));
    CHECK_OK(w.ctx, peft_checkpoint_load(w.session, NULL, folder, NULL));
    CHECK_STATUS(w.ctx, peft_checkpoint_load(w.session, w.optimizer, folder, NULL), PEFT_E_FORMAT);

    peft_session_destroy(session);
    peft_adapter_destroy(narrow);
    peft_optimizer_destroy(sgd);
    world_close(&w);
    world_close(&other);
}

int main(void) {
    char folder[] = "/tmp/peft-checkpoint-XXXXXX", inside[256];
    if (mkdtemp(folder) == NULL) return 1;
    snprintf(inside, sizeof inside, "%s/run", folder);
    resume(inside);
    remove_checkpoint(inside);
    CHECK(rmdir(folder) == 0); /* nothing else was left */
    return check_summary();
}
