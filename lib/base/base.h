/* base.h: what every other file may use.
 *
 * The rules that this header makes possible: no globals (everything hangs on a peft_context), no call to
 * malloc outside alloc.c, no error without a sentence, no thread that is not in the pool.
 *
 * A function that can fail takes the context first, returns peft_status and says why with peft__fail().
 * On failure it leaves its outputs untouched and frees what it made.
 */
#ifndef PEFT_BASE_BASE_H
#define PEFT_BASE_BASE_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "peft/context.h"
#include "peft/status.h"

#define PEFT_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define PEFT_TRY(call)                                                                             \
    do {                                                                                           \
        const peft_status status_of_try = (call);                                                  \
        if (status_of_try < 0) return status_of_try;                                               \
    } while (0)

static inline size_t peft__min_size(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t peft__max_size(size_t a, size_t b) { return a > b ? a : b; }
static inline int64_t peft__min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t peft__max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t peft__ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Checked arithmetic for sizes that come from files: false on overflow, *out untouched. */
static inline bool peft__mul_size(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool peft__add_size(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }

/* ---- alloc.c: the one choke point for memory ------------------------------------------------------ */

/* Allocator record with byte counters; outlives the context while anything made from it lives. */
typedef struct peft__mem peft__mem;

/* Memory of `size` bytes (size 0 gives a valid pointer), aligned to 64, not cleared. NULL when there is
 * none or when the limit would be passed. Release with peft__free; NULL is allowed there. */
void *peft__alloc(peft__mem *mem, size_t size);
void *peft__alloc_zero(peft__mem *mem, size_t size);
/* Grows or shrinks; on NULL the old block is untouched. peft__realloc(mem, NULL, n) allocates. */
void *peft__realloc(peft__mem *mem, void *memory, size_t size);
void peft__free(peft__mem *mem, void *memory);
char *peft__strdup(peft__mem *mem, const char *text);
char *peft__strndup(peft__mem *mem, const char *text, size_t length);
/* Formatted copy; NULL when there is no memory. */
char *peft__strfmt(peft__mem *mem, const char *format, ...) PEFT_PRINTF(2, 3);

peft__mem *peft__mem_create(const peft_allocator *allocator, uint64_t limit);
peft__mem *peft__mem_ref(peft__mem *mem);
void peft__mem_unref(peft__mem *mem);
void peft__mem_counters(const peft__mem *mem, uint64_t *out_bytes, uint64_t *out_peak, uint64_t *out_count);
/* The peak becomes what is held now. */
void peft__mem_reset_peak(peft__mem *mem);
/* The figure for the error text after a NULL: true when the limit, not the allocator, said no. */
bool peft__mem_over_limit(const peft__mem *mem, uint64_t *out_limit);
/* Tests: from now on every allocation is refused while `on` is set ("steady-state steps allocate nothing"). */
void peft__mem_freeze(peft__mem *mem, bool on);

/* ---- arena.c: many small things with one end of life ----------------------------------------------- */

typedef struct peft__arena {
    peft__mem *mem;
    struct peft__arena_block *blocks;
    bool failed; /* some allocation did: for callers of functions whose NULL may also mean "there is none" */
} peft__arena;

void peft__arena_init(peft__arena *arena, peft__mem *mem);
void *peft__arena_alloc(peft__arena *arena, size_t size); /* cleared, aligned to 16; NULL when out of memory */
char *peft__arena_strdup(peft__arena *arena, const char *text);
char *peft__arena_strndup(peft__arena *arena, const char *text, size_t length);
char *peft__arena_strfmt(peft__arena *arena, const char *format, ...) PEFT_PRINTF(2, 3);
void peft__arena_free(peft__arena *arena); /* releases everything; the arena may be used again */

/* ---- pool.c: worker threads ------------------------------------------------------------------------ */

typedef struct peft__pool peft__pool;

/* fn(argument, tile, lane): lane < peft__pool_lanes() identifies scratch memory that no other running tile
 * uses. Which lane gets which tile is not determined; results must not depend on it. */
typedef void (*peft__tile_fn)(void *argument, uint32_t tile, uint32_t lane);

peft_status peft__pool_create(peft_context *ctx, uint32_t threads, const peft_executor *executor,
                              peft__pool **out_pool);
void peft__pool_destroy(peft__pool *pool); /* joins the workers */
uint32_t peft__pool_lanes(const peft__pool *pool);
/* Runs all tiles and returns; a tile may not run the pool again. One tile or one lane runs inline. After fork() the
 * first call in the child makes new workers. Never fails: tiles that find no worker run on the caller. */
void peft__pool_run(peft__pool *pool, uint32_t tiles, peft__tile_fn fn, void *argument);

/* ---- context.c -------------------------------------------------------------------------------------- */

struct peft__method;
struct peft__arch;

struct peft_context {
    peft__mem *mem;
    peft__pool *pool;
    atomic_int references;
    peft_log_fn log;
    void *log_user;
    int32_t log_level;
    uint32_t cpu; /* PEFT_CPU_GENERIC .. PEFT_CPU_AVX512: what kernels may use, already capped by the CPU */
    bool has_executor;
    /* Rows that a host inside this process adds to the tables of methods and architectures (tests do). */
    const struct peft__method *const *extra_methods;
    const struct peft__arch *const *extra_archs;
    size_t extra_method_count, extra_arch_count;
    char error[1024];
    char build_info[512];
};

peft_context *peft__context_ref(peft_context *ctx);
void peft__context_unref(peft_context *ctx);

/* Stores the text (cut at 1023 bytes on a character boundary) and returns `status`. One line, no full stop. */
peft_status peft__fail(peft_context *ctx, peft_status status, const char *format, ...) PEFT_PRINTF(3, 4);
/* Puts "where: " before the present error text and returns `status`: callers add what they know. */
peft_status peft__fail_in(peft_context *ctx, peft_status status, const char *format, ...) PEFT_PRINTF(3, 4);
/* PEFT_E_NOMEM or PEFT_E_LIMIT, with the figures; `what` says what the memory was for. */
peft_status peft__fail_nomem(peft_context *ctx, size_t bytes, const char *what);
void peft__log(peft_context *ctx, int32_t level, const char *format, ...) PEFT_PRINTF(3, 4);

/* Options structs (docs/abi.md): copies min(size, known), refuses sizes below `minimum` and non-zero unknown tails. */
peft_status peft__options_copy(peft_context *ctx, void *to, size_t known, const void *from, size_t minimum,
                               const char *name);

/* ---- cpu.c ------------------------------------------------------------------------------------------ */

uint32_t peft__cpu_detect(void);   /* PEFT_CPU_GENERIC, _AVX2 or _AVX512 by CPUID and XGETBV */
uint32_t peft__cpu_count(void);    /* CPUs in this process's affinity mask, at least 1 */

/* ---- clock.c ---------------------------------------------------------------------------------------- */

uint64_t peft__clock_us(void); /* monotonic microseconds */

/* ---- rng.c: counter-based random numbers (Philox 4x32-10) --------------------------------------------
 * A number is a pure function of (seed, stream, counter): no state to save, any order, any thread. */

typedef struct peft__rng {
    uint64_t seed;
    uint64_t stream;  /* what the numbers are for, e.g. a hash of a tensor's name */
    uint64_t counter; /* next 4-number block */
    uint32_t block[4];
    uint32_t used; /* of block; 4 = none left */
} peft__rng;

void peft__philox(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4]);
peft__rng peft__rng_make(uint64_t seed, uint64_t stream);
uint32_t peft__rng_u32(peft__rng *rng);
uint64_t peft__rng_below(peft__rng *rng, uint64_t bound); /* uniform in 0 .. bound-1, unbiased; bound > 0 */
float peft__rng_uniform(peft__rng *rng);                  /* [0, 1), 24 bits */
float peft__rng_normal(peft__rng *rng);                   /* mean 0, deviation 1 (Box-Muller) */
uint64_t peft__hash64(const void *data, size_t size, uint64_t seed); /* stable across machines and releases */

/* ---- half.h has the 16-bit floats; number.c: numbers as text ------------------------------------------ */

/* Locale-independent and correctly rounded; the whole text must be a number: 3, -7, +3, .5, 5., 1e-4. False for
 * infinities, NaN, hexadecimal numbers, blanks and what is too large for the type. */
bool peft__parse_f64(const char *text, size_t length, double *out);
bool peft__parse_i64(const char *text, size_t length, int64_t *out);
/* As short as reads back as the same number (9 to 17 digits), with '.' whatever the locale. `size` at least 32. */
void peft__format_f64(char *buffer, size_t size, double value);

/* ---- text.c: small text helpers ------------------------------------------------------------------------ */

bool peft__utf8_valid(const char *text, size_t length);
/* Decodes one code point at text[0..length-1] (length > 0): returns bytes used, 0 when malformed. */
size_t peft__utf8_decode(const char *text, size_t length, uint32_t *out_code_point);
size_t peft__utf8_encode(uint32_t code_point, char out[4]); /* 0 when it is no code point */
/* Makes `text` printable as one line of UTF-8 in place: control characters and malformed bytes become '?', and a
 * character that the end cuts is dropped. */
void peft__utf8_tidy(char *text);
/* The entry of `names` with the smallest edit distance to `name`, or NULL when none is near. For error texts. */
const char *peft__closest(const char *name, const char *const *names, size_t count);
/* Does path equal suffix, or end with "." suffix? The rule of target_modules. */
bool peft__module_suffix(const char *path, const char *suffix);

/* ---- buffer.c: a growing byte string ------------------------------------------------------------------ */

typedef struct peft__buffer {
    peft__mem *mem;
    char *data; /* always NUL-terminated once something was put in; NULL before */
    size_t length, capacity;
    bool failed; /* out of memory at some point: the content is not complete */
} peft__buffer;

void peft__buffer_init(peft__buffer *buffer, peft__mem *mem);
void peft__buffer_free(peft__buffer *buffer);
void peft__buffer_clear(peft__buffer *buffer);
bool peft__buffer_put(peft__buffer *buffer, const void *data, size_t length);
bool peft__buffer_puts(peft__buffer *buffer, const char *text);
bool peft__buffer_printf(peft__buffer *buffer, const char *format, ...) PEFT_PRINTF(2, 3);

/* ---- table.c: text -> 64-bit number ------------------------------------------------------------------- */

typedef struct peft__table {
    peft__mem *mem;
    struct peft__table_slot *slots; /* open addressing; keys are borrowed unless copied by the caller */
    size_t count, capacity;
    uint64_t seed;
} peft__table;

void peft__table_init(peft__table *table, peft__mem *mem);
void peft__table_free(peft__table *table);
/* Keys may hold any bytes and are NOT copied: they must outlive the table. A key that is there
 * already gets the new value. False when out of memory. */
bool peft__table_put(peft__table *table, const char *key, size_t length, uint64_t value);
bool peft__table_get(const peft__table *table, const char *key, size_t length, uint64_t *out_value);

/* ---- source.c: where bytes come from ------------------------------------------------------------------ */

/* A readable block of bytes: a mapped file, the host's memory, or what the host's callback read. */
typedef struct peft__source peft__source;
struct peft__source {
    peft_context *ctx;
    const uint8_t *data;
    size_t size;
    char *name;   /* for error texts: the path, or "memory" */
    int kind;
    atomic_int references;
};

/* Maps a regular file for reading. */
peft_status peft__source_open_path(peft_context *ctx, const char *path, peft__source **out_source);
/* Borrows memory, which must outlive the source; name NULL = "memory". */
peft_status peft__source_open_memory(peft_context *ctx, const void *data, size_t size, const char *name,
                                     peft__source **out_source);
/* Reads everything into memory of our own; name NULL = "reader". */
peft_status peft__source_open_reader(peft_context *ctx, const peft_reader *reader, const char *name,
                                     peft__source **out_source);
peft__source *peft__source_ref(peft__source *source);
void peft__source_unref(peft__source *source);
/* Tells the system that a mapped range is not needed at present (its pages may be dropped and read again). */
void peft__source_drop(const peft__source *source, size_t offset, size_t size);

/* ---- file.c: paths and atomic writes ------------------------------------------------------------------- */

/* Text of an errno value; thread-safe. Writes to `buffer` or returns a constant. */
const char *peft__errno_text(int code, char *buffer, size_t size);
bool peft__path_is_dir(const char *path);
bool peft__path_exists(const char *path);
char *peft__path_join(peft__mem *mem, const char *folder, const char *name);
peft_status peft__make_dirs(peft_context *ctx, const char *path);
/* Sorted names of a folder's entries, in `arena`. */
peft_status peft__list_dir(peft_context *ctx, const char *path, peft__arena *arena, char ***out_names,
                           size_t *out_count);

/* Writes to `path`.tmp.<unique> in the same folder; commit flushes, renames and flushes the folder; abort removes
 * the temporary file. Until commit the old file is untouched. */
typedef struct peft__writer peft__writer;
peft_status peft__writer_open(peft_context *ctx, const char *path, peft__writer **out_writer);
peft_status peft__writer_put(peft__writer *writer, const void *data, size_t size);
uint64_t peft__writer_offset(const peft__writer *writer);
peft_status peft__writer_commit(peft__writer *writer); /* frees the writer, also on failure */
void peft__writer_abort(peft__writer *writer);         /* NULL is allowed */
peft_status peft__write_file(peft_context *ctx, const char *path, const void *data, size_t size);

#endif
