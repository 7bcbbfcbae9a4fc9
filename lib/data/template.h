/* template.h: texts with the fields of a row put in: "Is this about {topic}? {text}\nAnswer:".
 *
 * Names stand in braces and are spelt as the row's keys are; {{ and }} are braces. A name that nothing answers to is
 * an error with the closest one that is there: a template that silently leaves a hole is a prompt that means something
 * else. What is put in is never read as a template again.
 */
#ifndef PEFT_DATA_TEMPLATE_H
#define PEFT_DATA_TEMPLATE_H

#include "format/json.h"

typedef struct peft__template peft__template;

/* A text besides those of the row; it wins over the row's field of the same name. */
typedef struct peft__template_field {
    const char *name;
    const char *text;
    size_t length;
    size_t at; /* written by rendering: byte of the result where it was first put, SIZE_MAX = nowhere */
} peft__template_field;

/* `where` is for error texts and is copied: what the template is called and where it stands, for example
 * "prompts.yaml:12: template". `text` is copied. PEFT_E_FORMAT for braces that do not pair and empty names. */
peft_status peft__template_create(peft_context *ctx, const char *where, const char *text, size_t length,
                                  peft__template **out_template);
void peft__template_destroy(peft__template *made);

/* How often the template has the name. */
uint32_t peft__template_uses(const peft__template *made, const char *name);
/* Names in the order of their first use; NULL past the last one. */
const char *peft__template_name(const peft__template *made, uint32_t index);
const char *peft__template_where(const peft__template *made);

/* Appends the text to `out`. Names are looked up in `fields`, then in `row` (an object, or NULL): strings as they are,
 * numbers and truth values as JSON writes them, null as nothing. PEFT_E_FORMAT: a name that is in neither, with the
 * closest that is; a value that is a list or an object. Errors about a row begin with "file:line: " (`file` may be NULL
 * where there is no row). */
peft_status peft__template_render(const peft__template *made, const char *file, uint64_t line, const peft__json *row,
                                  peft__template_field *fields, size_t field_count, peft__buffer *out);

#endif
