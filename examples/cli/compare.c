/* compare.c: `peft compare`: several methods on one model and one task, one after another, side by side in the end.
 *
 * An entry that fails is a row that says why; the others go on. Ctrl-C ends the entry that runs, and what was finished
 * before is still told and written.
 */
#include "compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char HELP[] =
    "usage: peft compare RECIPE.yaml [key=value ...] [--csv FILE] [--html FILE] [--keep DIR] [--quiet] [--json]\n"
    "\n"
    "Runs the entries of the recipe's group `compare` on the recipe's model and data and prints, for each: how good it "
    "is, with an interval;\n"
    "trained parameters, bytes on disk, memory, time, floating-point operations.\n"
    "\n"
    "  --csv FILE    the table for other programs\n"
    "  --html FILE   a page with the table and drawings; one file, nothing is fetched\n"
    "  --keep DIR    keeps the adapters, each in a folder of its name\n"
    "  --json        a line of JSON an entry on standard output\n"
    "\n"
    "Ctrl-C ends the run with what is finished. Entries: docs/compare.md\n";

static void describe(comparison *c) {
    peft_model_info info = {.struct_size = sizeof info};
    char a[64], b[64];
    const char *data = run_text(c->r, "data.train");
    if (c->r->model == NULL || peft_model_get_info(c->r->model, &info) < 0) return;
    snprintf(c->title, sizeof c->title, "%s: %s parameters, %s of weights (mapped); data %s; %u threads", info.name,
             format_count(info.parameters, a, sizeof a), format_bytes((uint64_t)info.bytes, b, sizeof b),
             data != NULL ? data : "-", peft_context_threads(c->r->c->context));
}

/* Written anew after each entry, so that a run that is killed leaves what it had. */
static bool write_all(const comparison *c, const char *csv, const char *html) {
    char *table = csv != NULL ? compare_csv(c) : NULL, *page = html != NULL ? compare_html(c) : NULL;
    bool good = true;
    if (csv != NULL) good = table != NULL && write_file(csv, table);
    if (html != NULL) good = page != NULL && write_file(html, page) && good;
    free(table);
    free(page);
    return good;
}

static bool run_all(comparison *c, const char *csv, const char *html) {
    const double start = now_seconds();
    for (size_t i = 0; i < c->count && !interrupted(); i++) {
        peft_compare_entry entry = {.struct_size = sizeof entry};
        if (peft_recipe_compare_entry(c->r->recipe, (uint32_t)i, &entry) < 0) return false;
        cli_say(c->r->c, "%zu/%zu  %s\n", i + 1, c->count, entry.name);
        contender *row = &c->rows[i];
        if (!compare_entry(c, (uint32_t)i, row)) break;
        c->done = i + 1;
        c->seconds = now_seconds() - start;
        if (row->reason != NULL) cli_note(c->r->c, "warning: %s: %s\n", row->name, row->reason);
        if (c->r->c->json) compare_json(c, row);
        if (!write_all(c, csv, html)) return false;
    }
    c->seconds = now_seconds() - start;
    return true;
}

static bool any_result(const comparison *c) {
    for (size_t i = 0; i < c->done; i++)
        if (c->rows[i].reason == NULL) return true;
    return false;
}

static int work(comparison *c, const char *csv, const char *html) {
    if (!run_all(c, csv, html)) return EXIT_FAILED;
    if (c->done > 0 && !c->r->c->quiet && !c->r->c->json) compare_print(c, stdout);
    if (interrupted()) {
        cli_note(c->r->c, "interrupted: %zu of %zu entries are finished\n", c->done, c->count);
        return EXIT_INTERRUPTED;
    }
    return any_result(c) ? EXIT_DONE : EXIT_FAILED;
}

int command_compare(cli *program, args *a) {
    a->help = HELP;
    if (args_flag(a, "--help")) {
        fputs(HELP, stdout);
        return EXIT_DONE;
    }
    const char *csv = args_text(a, "--csv"), *html = args_text(a, "--html");
    run r;
    comparison c = {.r = &r, .keep = args_text(a, "--keep"), .base_loss = NAN};
    int code = run_open(&r, program, a, 0);
    if (code == EXIT_DONE) {
        c.count = peft_recipe_compare_count(r.recipe);
        c.rows = calloc(c.count + 1, sizeof *c.rows);
        c.seeds = run_int(&r, "compare.seeds");
        c.samples = run_int(&r, "compare.samples");
        c.level = run_number(&r, "compare.level");
        describe(&c);
        if (c.rows == NULL || c.count == 0) {
            fprintf(stderr, "peft: the recipe has no entries to compare: see docs/compare.md\n");
            code = EXIT_FAILED;
        } else {
            interrupt_watch(NULL);
            cli_say(program, "%s\n", c.title);
            code = work(&c, csv, html);
        }
    }
    for (size_t i = 0; i < c.count && c.rows != NULL; i++) {
        free(c.rows[i].reason);
        free(c.rows[i].curve);
    }
    free(c.rows);
    free(program->failure);
    run_close(&r);
    return code;
}
