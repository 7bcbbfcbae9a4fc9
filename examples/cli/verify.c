/* verify.c: what a command says about a file that it has read back. */
#include "cli.h"

#include <math.h>

bool cli_report_difference(cli *c, const peft_difference *found, double allowed, const char *path) {
    cli_say(c, "%s read back and compared on a probe: logits differ by %.3g at most (the largest is %.3g)\n", path,
            found->largest, found->magnitude);
    if (found->largest <= allowed * fmax(1.0, found->magnitude)) return true;
    cli_clear_line(c);
    fprintf(stderr, "peft: %s does not compute what the model in memory does: logits differ by %.3g\n", path,
            found->largest);
    return false;
}

bool cli_verify_adapter(cli *c, peft_adapter *adapter, const char *path) {
    peft_difference found = {.struct_size = sizeof found};
    if (peft_adapter_verify(adapter, path, &found) < 0) return cli_fail(c, "reading back");
    return cli_report_difference(c, &found, 1e-3, path);
}

double cli_rounding_of(int32_t dtype) {
    switch (dtype) {
    case PEFT_DTYPE_F32:
        return 1e-3;
    case PEFT_DTYPE_F16:
        return 2e-2;
    case PEFT_DTYPE_BF16:
    case PEFT_DTYPE_Q8_0:
        return 1e-1;
    default:
        return 0.5;
    }
}
