/* The FLOP model against the table of Liu et al. 2022 (section 4.2, table 1): 41 shots of 98 tokens, a query of 103,
 * T-Few trained for 1000 steps of 8 examples. The paper prints two digits. */
#include "check.h"
#include "peft/cost.h"

enum { SHOTS = 41, SHOT = 98, QUERY = 103 };

/* Does `value` print as `digits` with two significant digits? */
static int prints(double value, const char *digits) {
    char text[32];
    snprintf(text, sizeof text, "%.1e", value);
    if (strcmp(text, digits) != 0) fprintf(stderr, "    %.4e prints as %s, the paper has %s\n", value, text, digits);
    return strcmp(text, digits) == 0;
}

static double icl(int32_t architecture, double parameters) {
    return peft_cost_icl(architecture, parameters, SHOTS, SHOT, QUERY, 0);
}

static void check_table(void) {
    const int32_t decoder = PEFT_COST_SINGLE_STACK, t5 = PEFT_COST_ENCODER_DECODER;
    /* T-Few and T0-11B zero-shot */
    CHECK(prints(peft_cost_inference(t5, 11e9, QUERY), "1.1e+12"));
    CHECK(prints(peft_cost_training(t5, 11e9, QUERY * 8.0 * 1000.0), "2.7e+16"));
    /* T5+LM */
    CHECK(prints(icl(t5, 11e9), "4.5e+13"));
    /* GPT-3 175B */
    CHECK(prints(icl(decoder, 175e9), "1.4e+15"));
    /* GPT-3 6.7B and 13B: the paper's formula gives 5.5e13 and 1.1e14, its table 5.4e13 and 1.0e14, which are the shots
     * without the query. */
    CHECK(prints(icl(decoder, 6.7e9), "5.5e+13"));
    CHECK(prints(icl(decoder, 13e9), "1.1e+14"));
    CHECK(prints(peft_cost_icl(decoder, 6.7e9, SHOTS, SHOT, 0, 0), "5.4e+13"));
    CHECK(prints(peft_cost_icl(decoder, 13e9, SHOTS, SHOT, 0, 0), "1.0e+14"));
    CHECK_NEAR(icl(decoder, 6.7e9) / 5.4e13, 1.0, 0.03);
    CHECK_NEAR(icl(decoder, 13e9) / 1.0e14, 1.0, 0.08);
    /* Zero-shot: no shots, no training. */
    CHECK_NEAR(peft_cost_icl(t5, 11e9, 0, SHOT, QUERY, 0), peft_cost_inference(t5, 11e9, QUERY), 0.0);
    CHECK_NEAR(peft_cost_training(t5, 11e9, 0), 0.0, 0.0);
    /* On disk: 16 kB of token ids; 1,081,344 values of (IA)3 on T5 v1.1 XXL, 4.2 MB as a file of 192 tensors with their
     * headers. */
    CHECK_NEAR(peft_cost_icl_bytes(SHOTS, SHOT), 16e3, 100.0);
    const double values = 24.0 * (4096 + 4096 + 10240) + 24.0 * (2 * 4096 + 2 * 4096 + 10240);
    CHECK_NEAR(values, 1081344.0, 0.0);
    CHECK_NEAR(peft_cost_adapter_bytes(values, 4) / 1048576.0, 4.2, 0.1);
    CHECK_NEAR(peft_cost_icl_bytes(0, SHOT), 0.0, 0.0);
    CHECK_NEAR(peft_cost_adapter_bytes(0, 4), 0.0, 0.0);
}

int main(void) {
    check_table();

    /* "Caching the shots' keys and values" saves a factor of about 41. */
    const double once = peft_cost_icl(PEFT_COST_SINGLE_STACK, 175e9, SHOTS, SHOT, QUERY, 1);
    CHECK_NEAR(once, 2.0 * 175e9 * QUERY, 1.0);
    CHECK_NEAR(icl(PEFT_COST_SINGLE_STACK, 175e9) / once, 41.0, 1.1);

    /* A frozen base spares the gradients of its weights: with everything trained nothing is spared. */
    for (int32_t architecture = 0; architecture < 2; architecture++) {
        const double all = peft_cost_training(architecture, 1e9, 1000.0);
        CHECK_NEAR(peft_cost_training_frozen(architecture, 1e9, 1e9, 1000.0) / all, 1.0, 1e-15);
        CHECK_NEAR(peft_cost_training_frozen(architecture, 1e9, 0.0, 1000.0) / all, 2.0 / 3.0, 1e-15);
        CHECK_NEAR(all / peft_cost_inference(architecture, 1e9, 1000.0), 3.0, 1e-15);
    }

    /* Nonsense costs nothing. */
    CHECK(peft_cost_inference(PEFT_COST_SINGLE_STACK, -1.0, 10.0) == 0.0);
    CHECK(peft_cost_training(PEFT_COST_SINGLE_STACK, 1.0, (double)NAN) == 0.0);
    CHECK(peft_cost_icl(PEFT_COST_SINGLE_STACK, 1.0, -3.0, 2.0, 5.0, 0) == 10.0);
    return check_summary();
}
