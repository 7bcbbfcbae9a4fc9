/* roofline: the multiply-add peak of this machine, and what share of it we reach. The peak is measured with the widest
 * vectors that a context would use, before
 * and after: where the two differ, the machine was not ours alone. */
#include "roofline.h"

static const char usage[] =
    "roofline [options]                 rates of single products\n"
    "roofline --step MODEL [options]    a whole training step\n"
    "  --threads N      default 1\n"
    "  --cpu NAME       generic, avx2 or avx512; default: the best that there is\n"
    "  --best           processor time of the fastest run on one thread, for a machine that has other work to do\n"
    "  --length N       tokens of the step; default 512\n"
    "  --config JSON    adapter_config.json of the step; default: LoRA, r 8, on q_proj and v_proj\n";

static const char *const cpu_names[] = {"generic", "avx2", "avx512"};

static int refuse(const char *argument) {
    fprintf(stderr, "roofline: cannot make sense of %s\n%s", argument, usage);
    return 2;
}

int main(int argc, char **argv) {
    peft_context_options options;
    peft_context_options_init(&options);
    roofline r = {.threads = 1};
    const char *model = NULL;
    const char *config = "{\"peft_type\": \"LORA\", \"r\": 8, \"lora_alpha\": 16, \"target_modules\": [\"q_proj\", \"v_proj\"]}";
    int64_t length = 512;
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(name, "--best") == 0) {
            r.processor_time = true;
            continue;
        }
        i++;
        if (strcmp(name, "--threads") == 0 && atoi(value) > 0) {
            r.threads = (uint32_t)atoi(value);
        } else if (strcmp(name, "--step") == 0 && *value != '\0') {
            model = value;
        } else if (strcmp(name, "--length") == 0 && atoi(value) > 0) {
            length = atoi(value);
        } else if (strcmp(name, "--config") == 0 && *value != '\0') {
            config = value;
        } else if (strcmp(name, "--cpu") == 0) {
            uint32_t cpu = 0;
            while (cpu < PEFT_COUNT(cpu_names) && strcmp(cpu_names[cpu], value) != 0) cpu++;
            if (cpu == PEFT_COUNT(cpu_names)) return refuse(value);
            options.cpu_features = cpu; /* PEFT_CPU_GENERIC, _AVX2, _AVX512 */
        } else {
            return refuse(name);
        }
    }
    if (r.processor_time && r.threads > 1) return refuse("--best with several threads");
    options.threads = r.threads;
    if (peft_context_create(&options, &r.ctx) != PEFT_OK) return 1;
    r.peak = roofline_peak(&r);
    printf("%s, %u thread%s: peak %.0f GF/s\n", cpu_names[r.ctx->cpu], r.threads, r.threads == 1 ? "" : "s", r.peak);
    int failed = 0;
    if (model != NULL)
        failed = roofline_step(&r, model, config, length);
    else
        roofline_products(&r);
    printf("peak again: %.0f GF/s\n", roofline_peak(&r));
    peft_context_destroy(r.ctx);
    return failed;
}
