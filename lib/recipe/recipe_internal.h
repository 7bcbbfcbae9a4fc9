/* recipe_internal.h: how a recipe is kept while it is read and afterwards; shared by the files of this folder.
 *
 *   keys.c     our own keys: names, kinds, defaults, limits
 *   aliases.c  what axolotl, LLaMA-Factory and torchtune call the same things
 *   read.c     a file and overrides -> slots, `${key}` references, complaints about unknown keys
 *   compare.c  the entries of a comparison, and the recipe that each of them is
 *   finish.c   types, limits, values that depend on others, the adapter's configuration, explanation, hash
 *   recipe.c   the public functions
 */
#ifndef PEFT_RECIPE_RECIPE_INTERNAL_H
#define PEFT_RECIPE_RECIPE_INTERNAL_H

#include "format/yaml.h"
#include "peft/recipe.h"

/* ---- keys.c ------------------------------------------------------------------------------------------------- */

typedef enum {
    PEFT__RECIPE_TEXT,
    PEFT__RECIPE_INT,
    PEFT__RECIPE_NUMBER,
    PEFT__RECIPE_BOOL,
    PEFT__RECIPE_CHOICE,
    PEFT__RECIPE_LIST,
    PEFT__RECIPE_NAMES,  /* a list of texts; numbers are taken as they are written */
    PEFT__RECIPE_WEIGHTS /* "balanced" or a list of numbers */
} peft__recipe_kind;

typedef struct peft__recipe_key {
    const char *name; /* "train.lr" */
    peft__recipe_kind kind;
    const char *fallback; /* as YAML text; NULL = not set */
    double min, max;      /* INT and NUMBER */
    const char *choices;  /* CHOICE: "a|b|c", in the order of their numbers */
    bool outside;         /* does not change what is learnt: not part of the hash */
} peft__recipe_key;

extern const peft__recipe_key peft__recipe_keys[];
extern const size_t peft__recipe_key_count;
/* By the full name, or by the last part where that is unique ("lr"). */
const peft__recipe_key *peft__recipe_find_key(const char *name);
/* Number of a choice, -1 when it is none. */
int32_t peft__recipe_choice(const peft__recipe_key *key, const char *text);

/* ---- slots --------------------------------------------------------------------------------------------------- */

/* One value in effect. Keys that begin with "adapter." need no row in the table: they go to adapter_config.json as they
 * are. Keys that begin with "_" hold what finish.c combines into others. */
typedef struct peft__recipe_slot {
    const char *key;
    json_t *value;        /* owned */
    const char *given_as; /* the name in the file, NULL for a default */
    const char *where;    /* "recipe.yaml:12", "command line" or "default" */
} peft__recipe_slot;

/* A value as it was written. */
typedef struct peft__recipe_entry {
    const char *path;
    json_t *value; /* borrowed from the tree; strings are expanded when it is set */
    const char *where;
    bool from_override;
} peft__recipe_entry;

/* One entry of compare.entries. */
typedef struct peft__recipe_item {
    int32_t kind;        /* PEFT_COMPARE_* */
    const char *name;    /* texts are in the recipe's arena */
    const char *prompts; /* path, or NULL */
    const char *prompt;  /* name in it, or NULL */
    int64_t shots;
    bool own_method;     /* names a method: the recipe's own `adapter` keys do not count */
    json_t *changes;     /* owned: keys of the recipe and other values for them */
    const char *where;   /* "recipe.yaml:12" */
} peft__recipe_item;

struct peft_recipe {
    peft_context *ctx;
    peft__arena arena; /* all texts */
    const char *name;
    uint32_t flags;
    peft__recipe_slot *slots;
    size_t slot_count, slot_capacity;
    peft__recipe_entry *entries; /* while reading */
    size_t entry_count, entry_capacity;
    json_t *trees[2];     /* of the file, of the overrides (an array) */
    peft__buffer ignored; /* names of keys without a meaning here */
    peft__buffer explain;
    char *adapter_config;
    peft__recipe_item *items; /* of a comparison; in the arena */
    size_t item_count;
    const char **item_places; /* in the arena; where each was written */
    size_t item_place_count;
    const char *layout;       /* of WARP's inputs, as JSON in the arena; NULL = none */
    const char **label_names; /* in the arena */
    uint32_t label_name_count;
    const char **verbalizers; /* likewise */
    uint32_t verbalizer_count;
    uint64_t hash;
};

const peft__recipe_slot *peft__recipe_slot_of(const peft_recipe *recipe, const char *key);
/* Sets a slot; the value's reference is taken, also on failure. A second value from the same source is an error. */
peft_status peft__recipe_set(peft_recipe *recipe, const char *key, json_t *value, const peft__recipe_entry *entry);
/* The value of a key that was set or has a default, else NULL. */
const json_t *peft__recipe_value(const peft_recipe *recipe, const char *key);

/* ---- aliases.c ------------------------------------------------------------------------------------------------- */

typedef struct peft__recipe_alias peft__recipe_alias;
typedef peft_status (*peft__recipe_convert)(peft_recipe *recipe, const peft__recipe_alias *alias,
                                            const peft__recipe_entry *entry, const json_t *value);
struct peft__recipe_alias {
    const char *name;
    const char *key;              /* own key; NULL: convert decides, or the key is ignored */
    peft__recipe_convert convert; /* NULL: the value as it is */
    const char *reason;           /* of a refusal */
};

extern const peft__recipe_alias peft__recipe_aliases[];
extern const size_t peft__recipe_alias_count;
const peft__recipe_alias *peft__recipe_find_alias(const char *name);
/* Keys that other tools need for GPUs, launchers and services, and that mean nothing here. */
bool peft__recipe_is_ignored(const char *name);
/* Does a known name begin with `name` and a dot? */
bool peft__recipe_is_group(const char *name);
const char *peft__recipe_closest(const char *name);
/* "where: " and the complaint. */
peft_status peft__recipe_fail(peft_recipe *recipe, const peft__recipe_entry *entry, peft_status status,
                              const char *format, ...) PEFT_PRINTF(4, 5);

/* ---- read.c, finish.c ------------------------------------------------------------------------------------------- */

peft_status peft__recipe_read(peft_recipe *recipe, json_t *tree, const peft__yaml_lines *lines,
                              const char *const *overrides, size_t count);
/* Keys of a comparison's entry over the slots that are there; all were written at `where`. */
peft_status peft__recipe_read_changes(peft_recipe *recipe, json_t *changes, const char *where,
                                      const char *const *overrides, size_t count);
peft_status peft__recipe_finish(peft_recipe *recipe);

/* ---- compare.c ------------------------------------------------------------------------------------------------- */

/* Reads compare.entries and checks every entry by making its recipe once. */
peft_status peft__recipe_read_items(peft_recipe *recipe);
void peft__recipe_free_items(peft_recipe *recipe);

#endif
