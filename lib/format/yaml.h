/* yaml.h: the part of YAML that recipes need, as a JSON tree.
 *
 * Block and flow collections, plain, quoted, literal and folded scalars. Plain scalars follow the core schema with
 * only true and false as booleans (no yes/no, no octal, no dates). Anchors, aliases, tags, merge keys, several
 * documents and non-text keys are refused by name and line: a recipe must mean what it looks like.
 */
#ifndef PEFT_FORMAT_YAML_H
#define PEFT_FORMAT_YAML_H

#include "format/json.h"

/* Where each value was written: paths "train.optimizer.lr", "data.files[0]" to lines. */
typedef struct peft__yaml_lines peft__yaml_lines;

/* `limit` in bytes, 0 = 1 MiB. *out_lines may be asked for or NULL. An empty file is an empty object. */
peft_status peft__yaml_load_file(peft_context *ctx, const char *path, size_t limit, peft__json **out_json,
                                 peft__yaml_lines **out_lines);
peft_status peft__yaml_load_memory(peft_context *ctx, const char *name, const void *data, size_t size, size_t limit,
                                   peft__json **out_json, peft__yaml_lines **out_lines);
/* Line of the key (or list item), from 1; 0 when unknown. */
uint32_t peft__yaml_line(const peft__yaml_lines *lines, const char *path);
void peft__yaml_lines_free(peft__yaml_lines *lines);
/* One scalar by the same rules as in a file ("key=value" on a command line). Not a string when it reads as a number,
 * true, false or null. NULL when out of memory or not UTF-8. */
peft__json *peft__yaml_scalar(const char *text, size_t length);

#endif
