/* model_internal.h: the fields of a model, and what the files of this folder share.
 *
 * A model is filled by load.c in four steps, each in a file of its own: the configuration (config.c), the list of modules that
 * the architecture declares (modules.c), the stored tensor behind each of them (resolve.c), and what was found (report.c).
 * After that it is read-only and may be shared between threads.
 */
#ifndef PEFT_MODEL_MODEL_INTERNAL_H
#define PEFT_MODEL_MODEL_INTERNAL_H

#include "format/gguf.h"
#include "format/json.h"
#include "format/safetensors.h"
#include "model/model.h"
#include "text/tokenizer.h"

/* What a classification head is trained with; config.json's problem_type. */
typedef enum { PEFT__PROBLEM_SINGLE_LABEL, PEFT__PROBLEM_MULTI_LABEL, PEFT__PROBLEM_REGRESSION } peft__problem;

/* Lines of the load report, counted as they are written. */
typedef struct peft__load_counts {
    uint32_t matched, renamed, tied, is_new, unexpected, ignored;
} peft__load_counts;

struct peft_model {
    atomic_int references;
    peft__mem *mem;      /* held: a model may outlive its context */
    peft__arena arena;   /* names, modules, copied tensors, what the architecture keeps */
    const peft__arch *arch;
    json_t *config;
    const char *config_text;
    peft__dims dims;
    const void *arch_config;
    int32_t task;
    peft__problem problem;
    uint32_t asked_labels; /* options.num_labels */
    const char *path, *name;
    bool is_gguf, is_folder;

    peft__tensors *tensors;
    peft__table file_index; /* file's tensor name -> index */
    uint8_t *claimed;       /* [tensors in the file] 1: used */

    peft__module **modules;
    size_t module_count, module_capacity;
    peft__table by_name; /* module name -> index */

    peft_tokenizer *tokenizer;
    peft__buffer report;
    const char *report_text; /* summary and report */
    peft__load_counts counts;
    int64_t parameters, bytes;
    uint64_t hash;
    peft__model_reader later; /* of a clone that is only written to a file: makes the tensors without data */
    void *later_user;
};

/* config.c */
const char *peft__task_name(int32_t task);
/* The architecture, the task and the number of labels, from model->config and the options. */
peft_status peft__config_begin(peft_context *ctx, peft_model *model, const peft_model_options *options);

/* resolve.c: finds, checks and reports the stored tensors of all declared modules. */
peft_status peft__model_resolve(peft_context *ctx, peft_model *model, const peft_model_options *options);
/* Reads every weight once: PEFT_E_NONFINITE names the first that is NaN or infinite. */
peft_status peft__model_validate(peft_context *ctx, const peft_model *model);

/* report.c */
void peft__report_line(peft_model *model, const char *format, ...) PEFT_PRINTF(2, 3);
peft_status peft__report_finish(peft_context *ctx, peft_model *model);

/* load.c */
void peft__model_unref(peft_model *model);
/* An empty model with one reference. */
peft_status peft__model_new(peft_context *ctx, peft_model **out_model);
/* The configuration as text, for the public getter. */
peft_status peft__model_print_config(peft_context *ctx, peft_model *model);

#endif
