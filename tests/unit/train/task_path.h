/* task_path.h: where the data of tests of tasks are. */
#ifndef PEFT_TESTS_TASK_PATH_H
#define PEFT_TESTS_TASK_PATH_H

#include <stdio.h>
#include <stdlib.h>

/* Of a file below tests/data/tasks; good until the fourth call after it. */
static inline const char *path_of(const char *name) {
    static char paths[4][1024];
    static int next;
    const char *root = getenv("PEFT_TEST_DATA");
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/tasks/%s", root != NULL ? root : "tests/data", name);
    return path;
}

#endif
