/* interrupt.c: Ctrl-C. The first one lets the step end, so that a checkpoint stands between two steps; the second drops
 * the pass that runs; the third is the system's. */
#include "cli.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t presses;
static peft_session *volatile watched;

static void on_signal(int number) {
    (void)number;
    presses++;
    if (presses >= 2 && watched != NULL) peft_session_cancel(watched);
    if (presses >= 2) {
        struct sigaction action = {.sa_handler = SIG_DFL};
        (void)sigaction(SIGINT, &action, NULL);
    }
}

void interrupt_watch(peft_session *session) {
    watched = session;
    struct sigaction action = {.sa_handler = on_signal};
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
}

void interrupt_ignore(void) {
    watched = NULL;
}

bool interrupted(void) {
    return presses > 0;
}
