/* report.c: what loading found, as text: a summary, then one line a tensor. */
#include "model/model_internal.h"

#include <stdio.h>

void peft__report_line(peft_model *model, const char *format, ...) {
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length < 0) return;
    peft__utf8_tidy(line); /* names come from files */
    (void)peft__buffer_puts(&model->report, line);
    (void)peft__buffer_puts(&model->report, "\n");
}

peft_status peft__report_finish(peft_context *ctx, peft_model *model) {
    const peft__load_counts *c = &model->counts;
    if (model->report.failed) return peft__fail_nomem(ctx, model->report.length, "the load report");
    model->report_text = peft__arena_strfmt(
        &model->arena, "%s (%s, %s): %u matched, 0 missing, %u unexpected, %u renamed, %u tied, %u new, %u ignored\n%s",
        model->name, model->arch->model_type, peft__task_name(model->task), c->matched, c->unexpected, c->renamed,
        c->tied, c->is_new, c->ignored, model->report.data != NULL ? model->report.data : "");
    if (model->report_text == NULL) return peft__fail_nomem(ctx, model->report.length, "the load report");
    peft__buffer_free(&model->report);
    return PEFT_OK;
}
