/* method.c: the table of methods. A new method is a file and a row here. */
#include "method/method.h"

extern const peft__method peft__method_adalora;
extern const peft__method peft__method_bottleneck;
extern const peft__method peft__method_full;
extern const peft__method peft__method_ia3;
extern const peft__method peft__method_ln_tuning;
extern const peft__method peft__method_loha;
extern const peft__method peft__method_lokr;
extern const peft__method peft__method_lora;
extern const peft__method peft__method_mlp_head;
extern const peft__method peft__method_oft;
extern const peft__method peft__method_p_tuning;
extern const peft__method peft__method_prefix_tuning;
extern const peft__method peft__method_prompt_tuning;
extern const peft__method peft__method_vera;
extern const peft__method peft__method_vpt;
extern const peft__method peft__method_warp;

static const peft__method *const METHODS[] = {
    &peft__method_lora,
    &peft__method_full,
    &peft__method_ia3,
    &peft__method_ln_tuning,
    &peft__method_prompt_tuning,
    &peft__method_prefix_tuning,
    &peft__method_p_tuning,
    &peft__method_adalora,
    &peft__method_vera,
    &peft__method_loha,
    &peft__method_lokr,
    &peft__method_oft,
    &peft__method_vpt,
    &peft__method_mlp_head,
    &peft__method_warp,
    &peft__method_bottleneck,
};

const peft__method *peft__method_find(peft_context *ctx, const char *peft_type) {
    for (size_t i = 0; i < ctx->extra_method_count; i++)
        if (strcmp(ctx->extra_methods[i]->peft_type, peft_type) == 0) return ctx->extra_methods[i];
    for (size_t i = 0; i < PEFT_COUNT(METHODS); i++)
        if (strcmp(METHODS[i]->peft_type, peft_type) == 0) return METHODS[i];
    peft__buffer names;
    peft__buffer_init(&names, ctx->mem);
    for (size_t i = 0; i < ctx->extra_method_count; i++)
        peft__buffer_printf(&names, " %s", ctx->extra_methods[i]->peft_type);
    for (size_t i = 0; i < PEFT_COUNT(METHODS); i++) peft__buffer_printf(&names, " %s", METHODS[i]->peft_type);
    (void)peft__fail(ctx, PEFT_E_UNSUPPORTED, "peft_type \"%.64s\" is not built; there is%s", peft_type,
                     names.data != NULL ? names.data : "");
    peft__buffer_free(&names);
    return NULL;
}
