/* Learning rates against transformers.get_scheduler. */
#include "check.h"
#include "format/json.h"
#include "peft/optimizer.h"

static void check_schedule(const json_t *file, const char *name, int32_t kind) {
    const json_t *one = json_object_get(json_object_get(file, "schedules"), name);
    const json_t *options = json_object_get(one, "options"), *lr = json_object_get(one, "lr");
    peft_schedule s;
    peft_schedule_init(&s);
    s.kind = kind;
    s.peak_lr = json_number_value(json_object_get(file, "base_lr"));
    s.total_steps = (uint64_t)json_integer_value(json_object_get(file, "total_steps"));
    s.warmup_steps =
        strcmp(name, "constant") == 0 ? 0 : (uint64_t)json_integer_value(json_object_get(file, "warmup_steps"));
    if (json_object_get(options, "power") != NULL) s.power = json_number_value(json_object_get(options, "power"));
    if (json_object_get(options, "lr_end") != NULL) s.end_lr = json_number_value(json_object_get(options, "lr_end"));
    if (json_object_get(options, "num_cycles") != NULL)
        s.num_cycles = json_number_value(json_object_get(options, "num_cycles"));
    if (json_object_get(options, "min_lr_rate") != NULL)
        s.min_lr_rate = json_number_value(json_object_get(options, "min_lr_rate"));
    CHECK(json_array_size(lr) == 30);
    for (size_t i = 0; i < json_array_size(lr); i++) {
        const double want = json_number_value(json_array_get(lr, i));
        if (!CHECK(fabs(peft_schedule_lr(&s, i) - want) <= 1e-15)) fprintf(stderr, "    %s at step %zu\n", name, i);
    }
}

int main(void) {
    char path[4096];
    snprintf(path, sizeof path, "%s/train/schedules.json", getenv("PEFT_TEST_DATA"));
    json_t *file = json_load_file(path, 0, NULL);
    CHECK(file != NULL);
    check_schedule(file, "linear", PEFT_SCHEDULE_LINEAR);
    check_schedule(file, "cosine", PEFT_SCHEDULE_COSINE);
    check_schedule(file, "cosine_with_restarts", PEFT_SCHEDULE_COSINE_RESTARTS);
    check_schedule(file, "cosine_with_min_lr", PEFT_SCHEDULE_COSINE_MIN_LR);
    check_schedule(file, "polynomial", PEFT_SCHEDULE_POLYNOMIAL);
    check_schedule(file, "constant", PEFT_SCHEDULE_CONSTANT);
    check_schedule(file, "constant_with_warmup", PEFT_SCHEDULE_CONSTANT);
    check_schedule(file, "inverse_sqrt", PEFT_SCHEDULE_INVERSE_SQRT);
    json_decref(file);

    /* Beyond the end, without warm-up, and nonsense. */
    peft_schedule s;
    peft_schedule_init(&s);
    s.kind = PEFT_SCHEDULE_LINEAR;
    s.peak_lr = 1.0;
    s.total_steps = 10;
    CHECK_NEAR(peft_schedule_lr(&s, 0), 1.0, 0.0);
    CHECK_NEAR(peft_schedule_lr(&s, 10), 0.0, 0.0);
    CHECK_NEAR(peft_schedule_lr(&s, 1000), 0.0, 0.0);
    s.kind = PEFT_SCHEDULE_POLYNOMIAL;
    CHECK_NEAR(peft_schedule_lr(&s, 1000), 1e-7, 1e-20);
    CHECK_NEAR(peft_schedule_lr(NULL, 1), 0.0, 0.0);
    s.struct_size = 0;
    CHECK_NEAR(peft_schedule_lr(&s, 1), 0.0, 0.0);
    return check_summary();
}
